//! The `penstock` program, which also answers to the name `tyk`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs before anything allocates: the first page of the heap is a huge one otherwise.
#[used]
#[unsafe(link_section = ".init_array.00001")]
static BEFORE_THE_HEAP: extern "C" fn() = before_the_heap;

extern "C" fn before_the_heap() {
    penstock::net::sys::disable_huge_pages();
}

fn main() -> std::process::ExitCode {
    penstock::cli::run()
}
