//! How long a session stays in the store, and when its key ends.
//!
//! Tyk: `user/session.go` (`Lifetime`, `calculateLifetime`), `gateway/auth_manager.go`
//! (`KeyExpired`).

use crate::{config::Config, session::Session};

/// What `tyk.conf` says about lifetimes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LifetimeRules {
    /// `global_session_lifetime` where `force_global_session_lifetime` is on; seconds.
    pub forced_s: Option<i64>,
    /// `session_lifetime_respects_key_expiration`.
    pub respects_expiration: bool,
}

impl LifetimeRules {
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self {
            forced_s: config
                .force_global_session_lifetime
                .then_some(config.global_session_lifetime),
            respects_expiration: config.session_lifetime_respects_key_expiration,
        }
    }
}

impl Session {
    /// Seconds that the session stays in the store; 0 or less: for good. `api_lifetime_s` and
    /// `api_respects` are the API's `session_lifetime` and
    /// `session_lifetime_respects_key_expiration`.
    #[must_use]
    pub fn lifetime_s(
        &self,
        rules: LifetimeRules,
        (api_lifetime_s, api_respects): (i64, bool),
        now_s: i64,
    ) -> i64 {
        if let Some(forced) = rules.forced_s {
            return forced;
        }
        let lifetime = if self.session_lifetime > 0 {
            self.session_lifetime
        } else {
            api_lifetime_s
        };
        if lifetime <= 0 {
            return 0;
        }
        if !(rules.respects_expiration || api_respects) {
            return lifetime;
        }
        if self.expires <= 0 {
            return self.expires;
        }
        lifetime.max(self.expires.saturating_sub(now_s))
    }

    /// Whether the key has ended: from the second `expires` on. Below 1 it never does.
    #[must_use]
    pub const fn is_expired(&self, now_s: i64) -> bool {
        self.expires >= 1 && now_s >= self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    struct Case {
        own: i64,
        expires: i64,
        api: i64,
        global: (Option<i64>, bool),
        api_respects: bool,
    }

    const NONE: Case = Case {
        own: 0,
        expires: 0,
        api: 0,
        global: (None, false),
        api_respects: false,
    };

    #[track_caller]
    fn check(case: Case, expected: i64) {
        let session = Session {
            session_lifetime: case.own,
            expires: case.expires,
            ..Session::default()
        };
        let rules = LifetimeRules {
            forced_s: case.global.0,
            respects_expiration: case.global.1,
        };
        let api = (case.api, case.api_respects);
        assert_eq!(session.lifetime_s(rules, api, NOW), expected);
    }

    #[test]
    fn the_sessions_own_lifetime_is_before_the_apis() {
        check(NONE, 0);
        check(Case { api: 100, ..NONE }, 100);
        check(
            Case {
                own: 50,
                api: 100,
                ..NONE
            },
            50,
        );
        check(
            Case {
                own: -1,
                api: 100,
                ..NONE
            },
            100,
        );
        check(Case { api: -5, ..NONE }, 0);
        check(
            Case {
                expires: NOW + 200,
                ..NONE
            },
            0,
        );
    }

    #[test]
    fn a_forced_lifetime_is_before_all() {
        let global = (Some(7), true);
        check(
            Case {
                own: 50,
                global,
                ..NONE
            },
            7,
        );
        check(
            Case {
                global: (Some(0), false),
                own: 50,
                ..NONE
            },
            0,
        );
    }

    #[test]
    fn expiry_prolongs_a_lifetime_where_it_is_respected() {
        for (global, api_respects) in [((None, true), false), ((None, false), true)] {
            let base = |own, expires| Case {
                own,
                expires,
                api: 0,
                global,
                api_respects,
            };
            check(base(50, NOW + 200), 200);
            check(base(50, NOW + 50), 50);
            check(base(50, NOW + 10), 50);
            check(base(50, NOW - 10), 50);
            check(base(50, 0), 0);
            check(base(50, -1), -1);
            check(base(0, NOW + 200), 0);
            check(base(50, i64::MAX), i64::MAX - NOW);
        }
    }

    #[test]
    fn a_key_ends_at_its_second() {
        let ends = |expires| Session {
            expires,
            ..Session::default()
        };
        assert!(!ends(NOW + 1).is_expired(NOW));
        assert!(ends(NOW).is_expired(NOW));
        assert!(ends(1).is_expired(NOW));
        assert!(!ends(0).is_expired(NOW));
        assert!(!ends(-1).is_expired(NOW));
    }
}
