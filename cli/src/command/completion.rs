//! `loam completion`

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::client::Context;
use crate::exit::Failure;

#[derive(Args, Debug)]
pub(crate) struct CompletionArgs {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(context: &Context, args: &CompletionArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "loam", &mut script);
    context.output.line(String::from_utf8_lossy(&script).trim_end())
}
