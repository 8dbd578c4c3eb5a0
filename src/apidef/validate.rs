//! stub
use super::*;
pub fn load_faults(_:&ApiDefinition,_:bool)->Vec<Fault>{vec![]}
pub fn unsupported(_:&ApiDefinition)->Vec<Fault>{vec![]}
