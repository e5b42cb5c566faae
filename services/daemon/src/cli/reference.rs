//! How people name versions: `tickets/3`, `tickets@champion`, or MLflow's `models:/tickets/3`.

use std::fmt;
use std::str::FromStr;

use domain::id::PipelineName;
use domain::version::Alias;

/// A version by number or alias.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    pub pipeline: PipelineName,
    pub which: Which,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    Number(u64),
    Alias(Alias),
}

impl Reference {
    /// Below the pipeline's resource name.
    pub fn resource(&self, pipeline: &str) -> String {
        match self.which {
            Which::Number(number) => format!("{pipeline}/versions/{number}"),
            Which::Alias(alias) => format!("{pipeline}/versions/@{}", alias.name()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.which {
            Which::Number(number) => write!(f, "{}/{number}", self.pipeline),
            Which::Alias(alias) => write!(f, "{}@{}", self.pipeline, alias.name()),
        }
    }
}

impl FromStr for Reference {
    type Err = String;
    fn from_str(given: &str) -> Result<Self, String> {
        let plain = given.strip_prefix("models:/").unwrap_or(given);
        let at = plain.find(['@', '/']).ok_or_else(|| {
            format!("write PIPELINE/3, PIPELINE@champion, models:/PIPELINE/3 or models:/PIPELINE@champion, such as `{plain}@champion`")
        })?;
        let pipeline = plain[..at].parse().map_err(|error: domain::id::InvalidName| error.to_string())?;
        let rest = &plain[at + 1..];
        let which = match plain.as_bytes()[at] {
            b'@' => Which::Alias(alias(rest)?),
            _ => Which::Number(number(rest)?),
        };
        Ok(Self { pipeline, which })
    }
}

fn alias(given: &str) -> Result<Alias, String> {
    let known = Alias::ALL.into_iter().find(|alias| alias.name() == given);
    known.ok_or_else(|| format!("`{given}` is not an alias: use one of {}", Alias::ALL.map(Alias::name).join(", ")))
}

/// From 1, with or without the `v` under which tables show it.
fn number(given: &str) -> Result<u64, String> {
    let number = given.strip_prefix('v').unwrap_or(given).parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("`{given}` is not a version number; for an alias write PIPELINE@{given}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_names_the_same_version() {
        for (given, wanted) in [
            ("tickets/3", "tickets/3"),
            ("tickets/v3", "tickets/3"),
            ("models:/tickets/3", "tickets/3"),
            ("tickets@champion", "tickets@champion"),
            ("models:/tickets@champion", "tickets@champion"),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), wanted);
        }
        let by_alias: Reference = "tickets@previous".parse().unwrap();
        let resource = by_alias.resource("namespaces/default/pipelines/tickets");
        assert_eq!(resource, "namespaces/default/pipelines/tickets/versions/@previous");
        assert!(perennial_proto::convert::version_ref("name", &resource).is_ok());
    }

    #[test]
    fn what_names_no_version_says_how_to() {
        let refused = |given: &str| given.parse::<Reference>().unwrap_err();
        assert!(refused("tickets").contains("`tickets@champion`"));
        assert!(refused("tickets/champion").contains("PIPELINE@champion"));
        assert!(refused("tickets@best").contains("champion, challenger, previous"));
        assert!(refused("tickets/0").contains("not a version number"));
        assert!(refused("Tickets/1").contains("pipeline name"));
        assert!(refused("models:/tickets/1/x").contains("`1/x`"));
    }
}
