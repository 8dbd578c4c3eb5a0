//! `auth_override`: another store for keys and sessions of all APIs.

use crate::config::{field::section, value::FreeMap};

section! {
    /// `auth_override`.
    pub struct AuthOverride {
        force_auth_provider: bool => FORCEAUTHPROVIDER,
        auth_provider: Provider => AUTHPROVIDER,
        force_session_provider: bool => FORCESESSIONPROVIDER,
        session_provider: Provider => SESSIONPROVIDER,
    }
}

section! {
    /// `auth_provider` and `session_provider`.
    pub struct Provider {
        name: String => NAME,
        storage_engine: String => STORAGEENGINE,
        meta: FreeMap => META,
    }
}
