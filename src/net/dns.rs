//! stub
pub struct Names;
pub struct Name;
impl Names {
    pub fn subscribe(&self, _h: &str) -> std::sync::Arc<Name> {
        std::sync::Arc::new(Name)
    }
    pub async fn from_system(_t: Option<std::time::Duration>) -> Result<Self, String> {
        Ok(Names)
    }
}
impl Name {
    pub fn addresses(&self) -> Option<Vec<std::net::IpAddr>> {
        None
    }
}
