//! `monitor`: a webhook when a quota is nearly used up.

use std::collections::BTreeMap;

use crate::config::{field::section, value::Secret};

section! {
    /// `monitor`.
    pub struct Monitor {
        enable_trigger_monitors: bool => ENABLETRIGGERMONITORS,
        configuration: WebHook => CONFIG,
        /// Percent of the quota.
        global_trigger_limit: f64 => GLOBALTRIGGERLIMIT,
        monitor_user_keys: bool => MONITORUSERKEYS,
        monitor_org_keys: bool => MONITORORGKEYS,
    }
}

section! {
    /// `monitor.configuration`: the webhook to call.
    pub struct WebHook {
        method: String => METHOD,
        target_path: String => TARGETPATH,
        template_path: String => TEMPLATEPATH,
        /// Masked like a secret: it may hold an `Authorization` field.
        header_map: BTreeMap<String, Secret> => HEADERLIST,
        /// Seconds during which the same event is not sent again.
        event_timeout: i64 => EVENTTIMEOUT,
    }
}
