//! Exit codes, and the one error type every command ends in.

use std::fmt;
use std::process::ExitCode;

/// What the shell is told. The numbers are part of the interface: scripts branch on them (docs/cli.md).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// Something went wrong that none of the others describes.
    Error = 1,
    /// The command line, a value in it, an input file or the configuration is wrong.
    Usage = 2,
    /// The thing named does not exist.
    NotFound = 3,
    /// The server refuses: it exists already, is in use, or its state forbids it.
    Refused = 4,
    /// No server answers, or it answered too late.
    Unreachable = 5,
    /// The API key is missing, wrong, or not enough.
    Unauthenticated = 6,
}

/// What `loam --help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  error
  2  the command line, a value, an input file or the configuration is wrong
  3  not found
  4  refused: it exists already, is in use, or its state forbids it
  5  no server answers
  6  the API key is missing or wrong";

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read the output has enough (`loam … | head`): a clean end, nothing is said.
    OutputClosed,
    /// Told to the person on standard error.
    Told {
        /// What the shell gets.
        exit: Exit,
        /// One or more lines: the thing, the value, what to do.
        message: String,
    },
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self::Told { exit, message: message.into() }
    }

    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::new(Exit::Error, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Says it on standard error and turns it into the process's exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Told { exit, message } => {
                complain(&message);
                ExitCode::from(exit as u8)
            }
        }
    }
}

/// Writes a line to standard error; a closed standard error is nobody's concern.
pub(crate) fn complain(message: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "loam: {message}");
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutputClosed => f.write_str("the output was closed"),
            Self::Told { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    /// Keeps the exit code of a `Failure` that travelled as `anyhow::Error`.
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self::error(format!("{error:#}")),
        }
    }
}

impl From<std::io::Error> for Failure {
    /// For writing to standard output only; other files are named by whoever opens them.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::error(format!("the output cannot be written: {error}"))
        }
    }
}
