//! `event_handlers`: what happens on events of the gateway itself.

use std::collections::BTreeMap;

use crate::config::{field::section, value::FreeMap};

section! {
    /// `event_handlers`.
    pub struct EventHandlers {
        /// Event name to handlers.
        events: BTreeMap<String, Vec<EventHandler>> => EVENTS,
    }
}

section! {
    /// One handler of one event.
    pub struct EventHandler {
        handler_name: String => HANDLER,
        handler_meta: FreeMap => HANDLERMETA,
    }
}
