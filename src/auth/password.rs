//! Passwords of basic authentication: how new ones are hashed.
//!
//! Tyk: `gateway/api.go` (`setBasicAuthSessionPassword`, `basicAuthHashAlgo`); key
//! `basic_auth_hash_key_function`.

use std::io;

use crate::{hash::HashFn, session::BasicAuthData};

/// Go's `bcrypt.DefaultCost` and the cost that Tyk hashes with.
const BCRYPT_COST: u32 = 10;

/// Bytes of a password that bcrypt looks at.
const BCRYPT_BYTES_MAX: usize = 72;

/// How passwords are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordHash {
    Bcrypt,
    /// Without salt, as Tyk does it.
    Plain(HashFn),
}

impl PasswordHash {
    /// The function that `basic_auth_hash_key_function` names; bcrypt where it names none.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        HashFn::parse(name).map_or(Self::Bcrypt, Self::Plain)
    }

    /// Hashes a password. With bcrypt this takes some ten milliseconds: not for a thread that
    /// others wait for.
    ///
    /// # Errors
    /// The kernel has no random bytes to give.
    pub fn hash(self, password: &str) -> io::Result<BasicAuthData> {
        match self {
            Self::Plain(function) => Ok(BasicAuthData {
                password: function.hex(password),
                hash_type: function.name().to_owned(),
            }),
            Self::Bcrypt => {
                if password.len() > BCRYPT_BYTES_MAX {
                    // Tyk differs: there such a password is stored in clear.
                    tracing::warn!(
                        prefix = "api",
                        "a password has more than {BCRYPT_BYTES_MAX} bytes; bcrypt passes over \
                         those behind"
                    );
                }
                let mut salt = [0; 16];
                getrandom::fill(&mut salt).map_err(io::Error::other)?;
                let hashed = bcrypt::hash_with_salt(password, BCRYPT_COST, salt)
                    .map_err(io::Error::other)?;
                Ok(BasicAuthData {
                    password: hashed.format_for_version(bcrypt::Version::TwoA),
                    hash_type: "bcrypt".to_owned(),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_tyk_and_the_rest_is_bcrypt() {
        assert_eq!(
            PasswordHash::parse("sha256"),
            PasswordHash::Plain(HashFn::Sha256)
        );
        for name in ["", "bcrypt", "md5", "SHA256"] {
            assert_eq!(PasswordHash::parse(name), PasswordHash::Bcrypt);
        }
    }

    #[test]
    fn passwords_are_hashed_as_in_tyk() {
        let hashed = PasswordHash::parse("murmur64").hash("hello").unwrap();
        assert_eq!(hashed.password, "cbd8a7b341bd9b02");
        assert_eq!(hashed.hash_type, "murmur64");
        let hashed = PasswordHash::Bcrypt.hash("hello").unwrap();
        assert_eq!(hashed.hash_type, "bcrypt");
        assert!(
            hashed.password.starts_with("$2a$10$"),
            "{}",
            hashed.password
        );
        assert!(bcrypt::verify("hello", &hashed.password).unwrap());
        assert!(!bcrypt::verify("hallo", &hashed.password).unwrap());
    }

    #[test]
    fn a_long_password_is_never_stored_in_clear() {
        let long = "x".repeat(100);
        let hashed = PasswordHash::Bcrypt.hash(&long).unwrap();
        assert!(hashed.password.starts_with("$2a$10$"));
        assert!(bcrypt::verify(&long, &hashed.password).unwrap());
    }
}
