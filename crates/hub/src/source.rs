//! `hf://ORG/NAME@REVISION`.

use std::fmt;
use std::str::FromStr;

use crate::Error;

const SCHEME: &str = "hf://";

/// A model at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub org: String,
    pub name: String,
    pub revision: String,
}

impl Source {
    /// Whether it is meant as one, well written or not.
    pub fn is_meant(given: &str) -> bool {
        given.starts_with(SCHEME)
    }

    pub fn repository(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}@{}", self.org, self.name, self.revision)
    }
}

impl FromStr for Source {
    type Err = Error;
    fn from_str(given: &str) -> Result<Self, Error> {
        let wrong = || Error::Name { given: given.to_owned() };
        let path = given.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (repository, revision) = path.split_once('@').unwrap_or((path, "main"));
        let (org, name) = repository.split_once('/').ok_or_else(wrong)?;
        let plain = |part: &str| {
            let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && !part.starts_with('.') && part.chars().all(legal)
        };
        if !plain(org) || !plain(name) || revision.is_empty() {
            return Err(wrong());
        }
        Ok(Self { org: org.to_owned(), name: name.to_owned(), revision: revision.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_with_its_organisation_and_perhaps_a_revision() {
        let source: Source = "hf://google/vit-base@refs/pr/1".parse().unwrap();
        assert_eq!((source.repository().as_str(), source.revision.as_str()), ("google/vit-base", "refs/pr/1"));
        let source: Source = "hf://google/vit-base".parse().unwrap();
        assert_eq!(source.to_string(), "hf://google/vit-base@main");
        for bad in ["hf://vit", "hf://a/b/c", "hf:///b", "hf://a/", "hf://../b", "hf://a/b@", "s3://a/b"] {
            let refused = bad.parse::<Source>().unwrap_err().to_string();
            assert!(refused.contains(bad) && refused.contains("hf://ORG/NAME@REVISION"), "{refused}");
        }
    }
}
