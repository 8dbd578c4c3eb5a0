//! Sessions and policies: what is read, printed and read again is the same, and policies are laid
//! over sessions without a panic.

use penstock::{
    policy::{Policies, Policy, apply},
    session::Session,
};

/// Panics when a session or a policy does not survive printing, or when a session cannot be laid
/// under the policies that it carries or that the same bytes are.
pub fn check(data: &[u8]) {
    let policy = Policy::from_json_slice(data);
    if let Ok(policy) = &policy {
        for printed in [policy.to_json_string(), policy.to_json_string_pretty()] {
            let again = Policy::from_json_slice(printed.as_bytes());
            assert_eq!(again.ok().as_ref(), Some(policy), "{printed}");
        }
    }
    let Ok(session) = Session::from_json_slice(data) else {
        return;
    };
    let printed = session.to_json_string();
    let again = Session::from_json_slice(printed.as_bytes());
    assert_eq!(again.ok().as_ref(), Some(&session), "{printed}");
    let policies: Policies = policy.into_iter().collect();
    let mut laid = session;
    if apply(&mut laid, &policies, None).is_ok() {
        let printed = laid.to_json_string();
        assert!(
            Session::from_json_slice(printed.as_bytes()).is_ok(),
            "{printed}"
        );
    }
}
