//! Answers to questions, and frames that are genuine and strange.

use mac::command::{DownlinkCommand, PingSlotInfoReq, UplinkCommand};
use mac::drop_reason::DropReason;
use mac::session::Profile;
use mac::uplink::{Note, PortUse, port_use};
use mac::version::MacVersion;

use crate::device::{Device, SentUplink};
use crate::world::{Air, World};

/// MAC-001, MAC-010, MAC-011, MAC-033: questions are answered in their order, in one frame.
#[test]
fn questions_are_answered_in_their_order() {
    let mut world = World::otaa(Profile::default());
    world.settle();
    world.gateways = 3;
    world.ended_at_gps_us = Some(1_139_322_288_500_000);
    world.device.says = vec![
        UplinkCommand::LinkCheckReq,
        UplinkCommand::DeviceTimeReq,
        UplinkCommand::PingSlotInfoReq(PingSlotInfoReq::from_bytes([3])),
    ];
    let heard = world.report(b"x").heard.unwrap();
    let [DownlinkCommand::LinkCheckAns(check), DownlinkCommand::DeviceTimeAns(time)] = heard.commands[..]
    else {
        panic!("{:?}", heard.commands);
    };
    // SNR -5 dB, SF12 needs -20 dB; three gateways.
    assert_eq!((check.margin_db, check.gateway_count), (15, 3));
    assert_eq!((time.gps_seconds, time.fraction_256), (1_139_322_288, 128));
}

/// MAC-033: without a trustworthy time there is no answer; a wrong one is worse.
#[test]
fn the_time_is_told_only_when_it_is_known() {
    let mut world = World::otaa(Profile::default());
    world.settle();
    for unknown in [None, Some(-1)] {
        world.ended_at_gps_us = unknown;
        world.device.says = vec![UplinkCommand::DeviceTimeReq];
        assert!(world.report(b"x").built.is_none());
    }
}

/// MAC-002: an answer belongs to the windows of its question.
#[test]
fn an_answer_that_was_lost_is_not_sent_later() {
    let mut world = World::otaa(Profile::default());
    world.settle();
    world.device.says = vec![UplinkCommand::LinkCheckReq];
    world.air = Air::LosesDownlinks;
    assert!(world.report(b"x").built.is_some());
    world.air = Air::ThroughRx1;
    assert!(world.report(b"x").built.is_none());
}

/// MAC-002: a repeated confirmed uplink has windows of its own, and its question is answered in them.
#[test]
fn a_repeated_question_is_answered_again() {
    let mut world = World::otaa(Profile::default());
    world.settle();
    world.now_ms += 60_000;
    world.device.says = vec![UplinkCommand::LinkCheckReq];
    let sent = world.device.uplink(Some((2, b"x")), true);
    world.air = Air::LosesDownlinks;
    world.transmit(&sent);
    world.air = Air::ThroughRx1;
    world.now_ms += 8_000;
    let mac = world.session.mac.clone();
    let heard = world.transmit(&sent).heard.unwrap();
    assert!(heard.ack);
    assert_eq!(heard.commands.len(), 1);
    assert_eq!(world.session.mac, mac);
}

/// MAC-007, MAC-043: an unknown or cut off command ends the commands, not the frame.
#[test]
fn a_broken_command_loses_neither_the_payload_nor_what_stands_before_it() {
    for (commands, note, answers) in [
        (vec![0x02, 0x7f, 0x02], Note::MacCommandUnknown { cid: 0x7f }, 1),
        (vec![0x02, 0x06, 0x10], Note::MacCommandTruncated { cid: 0x06 }, 1),
        (vec![0x03], Note::MacCommandTruncated { cid: 0x03 }, 0),
        (vec![0xff; 15], Note::MacCommandUnknown { cid: 0xff }, 0),
    ] {
        let mut world = World::otaa(Profile::default());
        world.settle();
        world.notes.clear();
        let sent = with_commands(&mut world.device, commands, Some((2, b"payload")));
        let exchange = world.transmit(&sent);
        assert_eq!(world.delivered.last().unwrap().1, b"payload");
        assert_eq!(world.notes, [note]);
        assert_eq!(exchange.heard.map_or(0, |heard| heard.commands.len()), answers);
        assert!(world.report(b"the session lives").step.is_some());
    }
}

/// MAC-043: whatever stands in FOpts or on port 0 behind a valid MIC, the session stays sane and the payload arrives.
#[test]
fn random_commands_never_hurt_a_session() {
    let mut seed = 99_u64;
    for version in [MacVersion::V1_0_0, MacVersion::V1_0_3, MacVersion::V1_0_4, MacVersion::V1_1_0] {
        for joined in [true, false] {
            let profile = Profile { mac_version: version, device_status_interval_s: 600, ..Profile::default() };
            let mut world = if joined { World::otaa(profile) } else { World::abp(profile) };
            world.report(b"first");
            world.air = Air::LosesDownlinks;
            for round in 0..400 {
                let len = usize::try_from(next(&mut seed) % 16).unwrap();
                // Mostly identifiers that exist, so that the answers are read to their end.
                let bytes: Vec<u8> = (0..len)
                    .map(|_| {
                        let byte = u8::try_from(next(&mut seed) & 0xff).unwrap();
                        if byte & 1 == 0 { byte % 0x21 } else { byte }
                    })
                    .collect();
                let before = world.delivered.len();
                let on_port_0 = round % 5 == 0;
                let sent = if on_port_0 {
                    let long = bytes.repeat(3);
                    let (device, channel) = (&mut world.device, world_channel(&world.profile));
                    device.seal(Some((0, &long)), false, false, channel, Vec::new())
                } else {
                    with_commands(&mut world.device, bytes, Some((2, b"payload")))
                };
                world.now_ms += 60_000;
                let step = world.transmit(&sent).step.unwrap();
                assert_eq!(world.delivered.len(), before + usize::from(!on_port_0));
                let mac = &world.session.mac;
                assert!((1..=15).contains(&mac.rx1_delay_s) && (1..=15).contains(&mac.nb_trans));
                assert!(!mac.channels.is_empty());
                if let Some(plan) = step.downlink {
                    assert!(plan.rx1.is_some_and(|rx1| plan.commands.len() + 8 <= usize::from(rx1.max_m)));
                }
            }
        }
    }
}

fn world_channel(profile: &Profile) -> mac::region::Channel {
    profile.region().default_channels()[0]
}

/// PARSE-007: commands in both places make a frame that is not believed.
#[test]
fn commands_in_fopts_and_on_port_0_refuse_the_frame() {
    let mut world = World::otaa(Profile::default());
    world.settle();
    let before = world.session.clone();
    // The device's own stack would not make such a frame, so it is put together here.
    let channel = world.device.pick_channel();
    let sent = world.device.seal(Some((1, &[0x02])), false, false, channel, vec![0x02]);
    let forged = on_port_0(&world, &sent);
    world.transmit(&forged);
    assert_eq!(world.drops, [DropReason::Fport0WithFopts]);
    assert_eq!((world.session.fcnt_up, &world.session.mac), (before.fcnt_up, &before.mac));
}

fn on_port_0(world: &World, sent: &SentUplink) -> SentUplink {
    let mut phy = sent.phy.clone();
    let mic_at = phy.len() - 4;
    phy.truncate(mic_at);
    let port_at = 8 + usize::from(phy[5] & 0x0f);
    phy[port_at] = 0;
    let mic = mac::crypto::uplink_mic_10(
        &world.session.keys.f_nwk_s_int,
        world.session.dev_addr,
        mac::ids::FCntUp::new(sent.fcnt),
        &phy,
    );
    phy.extend(mic.to_bytes());
    SentUplink { phy, ..sent.clone() }
}

/// PARSE-009, MAC-044: port 0 is heard and never delivered.
#[test]
fn port_0_is_never_delivered() {
    let mut world = World::otaa(Profile::default());
    world.settle();
    let before = world.delivered.len();
    world.device.says = vec![UplinkCommand::LinkCheckReq; 16];
    let exchange = world.uplink(None, false);
    assert!(exchange.step.unwrap().app_payload.is_none());
    assert_eq!(exchange.heard.unwrap().commands.len(), 16);
    assert_eq!(world.delivered.len(), before);
}

/// PARSE-008.
#[test]
fn an_uplink_without_a_port_delivers_no_payload_and_an_empty_one_delivers_an_empty_one() {
    let mut world = World::otaa(Profile::default());
    world.settle();
    assert!(world.uplink(None, false).step.unwrap().app_payload.is_none());
    let app = world.uplink(Some((9, b"")), false).step.unwrap().app_payload.unwrap();
    assert_eq!((app.f_port, app.bytes.len()), (9, 0));
}

/// PARSE-010, MPA-001: all 256 ports; what loam has no use for itself reaches the application as it came.
#[test]
fn every_port_has_its_use() {
    for f_port in 0..=255 {
        let expected = match f_port {
            0 => PortUse::Mac,
            226 => PortUse::Relay,
            _ => PortUse::Application,
        };
        assert_eq!(port_use(f_port), expected, "{f_port}");
    }
    let mut world = World::otaa(Profile::default());
    world.settle();
    assert!(world.uplink(Some((226, b"relayed")), false).step.unwrap().app_payload.is_none());
    assert_eq!(world.notes.last(), Some(&Note::RelayUnsupported));
    for f_port in [1, 223, 224, 225, 227, 255] {
        let app = world.uplink(Some((f_port, &[f_port, 0xff])), false).step.unwrap().app_payload;
        assert_eq!(app.map(|app| app.f_port), Some(f_port));
        assert_eq!(world.delivered.last().unwrap().1, [f_port, 0xff]);
    }
}

/// MAC-021 and its like: answers to what loam does not ask are tolerated.
#[test]
fn answers_to_what_was_not_asked_change_nothing() {
    let mut world = World::otaa(Profile::default());
    world.settle();
    let mac = world.session.mac.clone();
    let sent =
        with_commands(&mut world.device, vec![0x04, 0x0c, 0x0f, 0x01, 0x03, 0x07, 0x07, 0x03], Some((2, b"x")));
    world.transmit(&sent);
    assert_eq!(world.session.mac, mac);
    assert_eq!(world.delivered.last().unwrap().1, b"x");
    assert_eq!(world.notes, []);
}

fn with_commands(device: &mut Device, commands: Vec<u8>, app: Option<(u8, &[u8])>) -> SentUplink {
    let channel = device.pick_channel();
    device.seal(app, false, false, channel, commands)
}

fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}
