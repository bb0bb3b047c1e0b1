use mac::command::{CommandError, DownlinkCommand, DownlinkCommands, UplinkCommand, UplinkCommands};
use proptest::prelude::*;

/// Identifiers of the commands of each direction (TS001-1.1 §5, TS001-1.0.4 §5) with the lengths of their payloads.
const UP: &[(u8, usize)] = &[
    (0x01, 1),
    (0x02, 0),
    (0x03, 1),
    (0x04, 0),
    (0x05, 1),
    (0x06, 2),
    (0x07, 1),
    (0x08, 0),
    (0x09, 0),
    (0x0a, 1),
    (0x0b, 1),
    (0x0c, 0),
    (0x0d, 0),
    (0x0f, 1),
    (0x10, 1),
    (0x11, 1),
    (0x12, 0),
    (0x13, 1),
    (0x20, 1),
];
const DOWN: &[(u8, usize)] = &[
    (0x01, 1),
    (0x02, 2),
    (0x03, 4),
    (0x04, 1),
    (0x05, 4),
    (0x06, 0),
    (0x07, 5),
    (0x08, 1),
    (0x09, 1),
    (0x0a, 4),
    (0x0b, 1),
    (0x0c, 1),
    (0x0d, 5),
    (0x0e, 2),
    (0x0f, 1),
    (0x10, 0),
    (0x11, 4),
    (0x12, 3),
    (0x13, 3),
    (0x20, 1),
];

/// A sequence of commands as a peer may send it, reserved bits and all.
fn sequence(known: &'static [(u8, usize)]) -> impl Strategy<Value = Vec<Vec<u8>>> {
    let command = prop::sample::select(known).prop_flat_map(|(cid, len)| {
        prop::collection::vec(any::<u8>(), len).prop_map(move |payload| [vec![cid], payload].concat())
    });
    prop::collection::vec(command, 0..12)
}

fn written_up(commands: &[UplinkCommand]) -> Vec<u8> {
    let mut bytes = Vec::new();
    commands.iter().for_each(|command| command.encode(&mut bytes));
    bytes
}

fn written_down(commands: &[DownlinkCommand]) -> Vec<u8> {
    let mut bytes = Vec::new();
    commands.iter().for_each(|command| command.encode(&mut bytes));
    bytes
}

proptest! {
    /// PARSE: every uplink command is read where it stands, and what is written of it is read as the same.
    #[test]
    fn uplink_commands_are_read_as_they_were_made(sequence in sequence(UP)) {
        let bytes = sequence.concat();
        let read: Vec<UplinkCommand> = UplinkCommands::new(&bytes).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read.len(), sequence.len());
        for (command, bytes) in read.iter().zip(&sequence) {
            prop_assert_eq!((command.cid(), command.len()), (bytes[0], bytes.len()));
        }
        let written = written_up(&read);
        prop_assert_eq!(written.len(), bytes.len());
        prop_assert_eq!(UplinkCommands::new(&written).collect::<Result<Vec<_>, _>>().unwrap(), read);
    }

    #[test]
    fn downlink_commands_are_read_as_they_were_made(sequence in sequence(DOWN)) {
        let bytes = sequence.concat();
        let read: Vec<DownlinkCommand> = DownlinkCommands::new(&bytes).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read.len(), sequence.len());
        for (command, bytes) in read.iter().zip(&sequence) {
            prop_assert_eq!((command.cid(), command.len()), (bytes[0], bytes.len()));
        }
        let written = written_down(&read);
        prop_assert_eq!(written.len(), bytes.len());
        prop_assert_eq!(DownlinkCommands::new(&written).collect::<Result<Vec<_>, _>>().unwrap(), read);
    }

    /// PARSE: the commands in front of a cut or an unknown one count, the rest is named.
    #[test]
    fn a_cut_names_the_command_it_goes_through(sequence in sequence(UP), missing in 1_usize..3) {
        let bytes = sequence.concat();
        let Some(last) = sequence.last().filter(|last| last.len() > missing) else { return Ok(()) };
        let read: Vec<_> = UplinkCommands::new(&bytes[..bytes.len() - missing]).collect();
        prop_assert_eq!(read.len(), sequence.len());
        prop_assert!(read[..read.len() - 1].iter().all(Result::is_ok));
        prop_assert_eq!(read.last(), Some(&Err(CommandError::Truncated { cid: last[0] })));
    }

    #[test]
    fn an_unknown_command_ends_the_reading(sequence in sequence(DOWN), cid in any::<u8>(), rest in any::<[u8; 8]>()) {
        prop_assume!(DOWN.iter().all(|(known, _)| *known != cid));
        let bytes = [sequence.concat(), vec![cid], rest.to_vec()].concat();
        let read: Vec<_> = DownlinkCommands::new(&bytes).collect();
        prop_assert_eq!(read.len(), sequence.len() + 1);
        prop_assert_eq!(read.last(), Some(&Err(CommandError::Unknown { cid })));
    }
}

#[test]
fn every_identifier_is_known_or_refused() {
    for cid in 0..=255 {
        let bytes = [cid, 0, 0, 0, 0, 0];
        let unknown = Some(Err(CommandError::Unknown { cid }));
        let known_up = UP.iter().any(|(known, _)| *known == cid);
        let known_down = DOWN.iter().any(|(known, _)| *known == cid);
        assert_eq!(
            UplinkCommands::new(&bytes).next().map(|r| r.map(|c| c.cid())) == unknown,
            !known_up,
            "{cid:#x}"
        );
        assert_eq!(
            DownlinkCommands::new(&bytes).next().map(|r| r.map(|c| c.cid())) == unknown,
            !known_down,
            "{cid:#x}"
        );
    }
}
