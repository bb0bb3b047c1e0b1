use crate::command::{CommandError, DownlinkCommands, UplinkCommands};

/// A sequence of MAC commands, in clear, of either direction.
///
/// Every command that is read is one of the sequence's own bytes, in order; what follows an unknown or cut off one is not read; and what
/// is written of a command reads as that command.
pub fn mac_commands(bytes: &[u8]) {
    let mut up = Walk { bytes, at: 0 };
    for item in UplinkCommands::new(bytes) {
        let mut written = Vec::new();
        match item {
            Ok(command) => {
                command.encode(&mut written);
                assert_eq!((written.len(), written.first()), (command.len(), Some(&command.cid())));
                assert_eq!(UplinkCommands::new(&written).collect::<Vec<_>>(), [Ok(command)]);
                up.step(&written);
            }
            Err(error) => up.end(error),
        }
    }
    up.is_over();

    let mut down = Walk { bytes, at: 0 };
    for item in DownlinkCommands::new(bytes) {
        let mut written = Vec::new();
        match item {
            Ok(command) => {
                command.encode(&mut written);
                assert_eq!((written.len(), written.first()), (command.len(), Some(&command.cid())));
                assert_eq!(DownlinkCommands::new(&written).collect::<Vec<_>>(), [Ok(command)]);
                assert!(command.answer_len() <= 3);
                down.step(&written);
            }
            Err(error) => down.end(error),
        }
    }
    down.is_over();
}

/// Follows a reader through the bytes.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).expect("a reader stays within its bytes")
    }

    /// Reserved bits are written as zero, so the payloads may differ; the identifier may not.
    fn step(&mut self, written: &[u8]) {
        assert_eq!(self.rest().first(), written.first(), "at byte {}", self.at);
        self.at += written.len();
    }

    fn end(&mut self, error: CommandError) {
        let (CommandError::Truncated { cid } | CommandError::Unknown { cid }) = error;
        assert_eq!(self.rest().first(), Some(&cid), "the error names the command at byte {}", self.at);
        self.at = self.bytes.len();
    }

    fn is_over(&self) {
        assert_eq!(self.at, self.bytes.len(), "the reader ends with the bytes or with an error");
    }
}
