//! `tyk.conf`: what is read, printed and read again is the same.

use std::path::Path;

use penstock::config::Config;

/// Panics when a configuration does not survive printing, or prints a key that it does not know.
pub fn check(data: &[u8]) {
    let file = Path::new("tyk.conf");
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok((config, _)) = Config::from_json_str(file, text) else {
        return;
    };
    let printed = config.to_json_string();
    let (again, unknown) =
        Config::from_json_str(file, &printed).unwrap_or_else(|why| panic!("{why}\n{printed}"));
    assert!(unknown.is_empty(), "{unknown:?}\n{printed}");
    assert!(again == config, "{printed}\n{}", again.to_json_string());
}
