//! Log set-up and fields.
