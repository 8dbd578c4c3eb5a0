//! The REST API.
pub struct Names; impl Names { pub fn owns(&self,_p:&[u8])->bool{false} }
