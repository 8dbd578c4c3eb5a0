//! The `penstock` program, which also answers to the name `tyk`.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    penstock::cli::run()
}
