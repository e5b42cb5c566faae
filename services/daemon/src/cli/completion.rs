//! `perennial completion`.

use clap::CommandFactory;

use super::failure::Failure;
use super::{Cli, output};

pub fn print(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "perennial", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
