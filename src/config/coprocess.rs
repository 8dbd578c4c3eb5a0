//! `coprocess_options`: plugins in other processes.

use crate::config::field::section;

section! {
    /// `coprocess_options`.
    pub struct CoprocessOptions {
        enable_coprocess: bool => ENABLECOPROCESS,
        /// URL, such as `tcp://127.0.0.1:5555`.
        coprocess_grpc_server: String => COPROCESSGRPCSERVER,
        /// Bytes.
        grpc_recv_max_size: i64 => GRPCRECVMAXSIZE,
        /// Bytes.
        grpc_send_max_size: i64 => GRPCSENDMAXSIZE,
        grpc_authority: String => GRPCAUTHORITY,
        python_path_prefix: String => PYTHONPATHPREFIX,
        python_version: String => PYTHONVERSION,
    }
}
