//! API definitions: what is read, printed and read again is the same.

use penstock::apidef::ApiDefinition;

/// Panics when a definition does not survive printing, in either of its forms.
pub fn check(data: &[u8]) {
    let Ok(definition) = ApiDefinition::from_json_slice(data) else {
        return;
    };
    for printed in [
        definition.to_json_string(),
        definition.to_json_string_pretty(),
    ] {
        let again = ApiDefinition::from_json_slice(printed.as_bytes());
        assert_eq!(again.as_ref(), Ok(&definition), "{printed}");
    }
}
