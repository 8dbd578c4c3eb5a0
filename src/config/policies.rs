//! `policies`: where policies come from.

use crate::config::field::section;

section! {
    /// `policies`.
    pub struct Policies {
        /// `file`, `service` (Dashboard) or `rpc` (MDCB); empty is `file`.
        policy_source: String => POLICYSOURCE,
        policy_connection_string: String => POLICYCONNECTIONSTRING,
        /// The single policy file.
        policy_record_name: String => POLICYRECORDNAME,
        allow_explicit_policy_id: bool => ALLOWEXPLICITPOLICYID,
        /// A folder with one file per policy; wins over `policy_record_name`.
        policy_path: String => POLICYPATH,
    }
}
