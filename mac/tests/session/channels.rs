//! The device's channels follow the profile.

use mac::command::{NewChannelAns, UplinkCommand};
use mac::region::RegionId;
use mac::session::Profile;
use mac::uplink::{Note, RequestKind};
use mac::version::{MacVersion, RegionalRevision};

use crate::world::{World, hz};

const LINK_ADR: u8 = 0x03;
const NEW_CHANNEL: u8 = 0x07;
const DL_CHANNEL: u8 = 0x0a;

/// MAC-025: fixed plans are never told of channels, whatever the profile.
#[test]
fn no_channel_is_defined_or_moved_in_a_fixed_plan() {
    for region in [RegionId::Us915, RegionId::Au915] {
        for sub_bands in [0, 0b10, 0b1001] {
            let mut world = World::abp(Profile { region, sub_bands, ..Profile::default() });
            world.settle();
            assert!(
                !world
                    .commands_heard()
                    .into_iter()
                    .flatten()
                    .any(|cid| cid == NEW_CHANNEL || cid == DL_CHANNEL)
            );
        }
    }
}

/// MAC-026 (the device panics when a default channel is touched), MAC-028.
#[test]
fn a_personalised_device_learns_the_extra_channels() {
    let mut world = World::abp(Profile { extra_channels: extra(), ..Profile::default() });
    world.settle();
    assert_eq!(world.device.extra.values().copied().collect::<Vec<_>>(), extra());
    assert_eq!(world.device.mask, world.session.mac.channels);
    assert_eq!(world.session.extra_channels(&world.profile).len(), 5);

    // A channel is taken away, another moves.
    world.profile.extra_channels = vec![extra()[0], hz(866_900_000), extra()[2]];
    world.settle();
    assert_eq!(world.device.extra.values().copied().collect::<Vec<_>>(), world.profile.extra_channels);
    assert_eq!(world.device.mask, world.session.mac.channels);
}

/// A joined device has them from its CFList and is asked for nothing.
#[test]
fn a_joined_device_has_its_channels_from_the_join_accept() {
    for profile in [
        Profile { extra_channels: extra(), adr: false, ..Profile::default() },
        Profile { region: RegionId::Us915, sub_bands: 0b10, adr: false, ..Profile::default() },
    ] {
        let mut world = World::otaa(profile);
        assert!(world.report(b"x").built.is_none());
        assert_eq!(world.device.mask, world.session.mac.channels);
    }
}

/// A device ignores a CFList of the other kind of plan, and so does its session.
#[test]
fn a_cf_list_for_the_other_kind_of_plan_changes_no_channel() {
    let dynamic = Profile { extra_channels: extra(), ..Profile::default() };
    let fixed = Profile { region: RegionId::Us915, sub_bands: 0b10, ..Profile::default() };
    let list_of = |profile: &Profile| profile.join_settings().cf_list;
    for (profile, other) in [(&dynamic, &fixed), (&fixed, &dynamic)] {
        let without = World::offered(profile, None).pack();
        assert_ne!(World::offered(profile, list_of(profile)).pack(), without);
        assert_eq!(World::offered(profile, list_of(other)).pack(), without);
    }
}

/// MAC-028: refused channels are not used and not asked for ever.
#[test]
fn refused_channels_are_left_alone() {
    let mut world = World::abp(Profile { extra_channels: extra(), ..Profile::default() });
    world.device.habits.refuses_channels = true;
    world.settle();
    for _ in 0..10 {
        world.report(b"x");
    }
    let asked = world.commands_heard().into_iter().flatten().filter(|cid| *cid == NEW_CHANNEL).count();
    assert_eq!(asked, 15, "five channels, three times each");
    assert!(world.session.extra_channels(&world.profile).is_empty());
    assert_eq!(world.session.mac.channels, world.profile.region().default_mask());
}

/// MAC-028: a channel exists when both bits say so.
#[test]
fn each_status_of_a_channel_means_what_it_says() {
    for status in 0..4 {
        let mut world =
            World::abp(Profile { extra_channels: vec![extra()[0]], adr: false, ..Profile::default() });
        world.device.habits.deaf_to = vec![NEW_CHANNEL];
        world.report(b"1");
        world.device.says = vec![UplinkCommand::NewChannelAns(NewChannelAns::from_bytes([status]))];
        world.report(b"2");
        let channels: Vec<_> =
            world.session.extra_channels(&world.profile).into_iter().map(|channel| channel.freq).collect();
        let expected = if status == 3 { vec![extra()[0]] } else { Vec::new() };
        assert_eq!(channels, expected, "{status:#04b}");
        assert_eq!(world.session.mac.channels.contains(3), status == 3, "{status:#04b}");
        let refused = Note::MacRequestRefused { kind: RequestKind::NewChannel };
        assert_eq!(world.notes.contains(&refused), status != 3, "{status:#04b}");
    }
}

/// MAC-012, MAC-015: where the CFList cannot tell, LinkADRReq selects the sub-band, in one block, in every version.
#[test]
fn sub_bands_are_selected_by_link_adr_where_the_join_cannot() {
    for (version, revision) in [
        (MacVersion::V1_0_0, RegionalRevision::Ts001_1_0_1),
        (MacVersion::V1_0_2, RegionalRevision::Rp001_1_0_2),
        (MacVersion::V1_0_3, RegionalRevision::Rp001_1_0_3A),
        (MacVersion::V1_0_4, RegionalRevision::Rp002_1_0_4),
        (MacVersion::V1_1_0, RegionalRevision::Rp001_1_1B),
    ] {
        for adr in [true, false] {
            for sub_bands in [0b10, 0b1000_0001] {
                let mut world = World::abp(Profile {
                    region: RegionId::Us915,
                    mac_version: version,
                    revision,
                    sub_bands,
                    adr,
                    ..Profile::default()
                });
                world.device.adr = adr;
                world.settle();
                assert_eq!(world.device.mask, world.profile.region().sub_band_mask(sub_bands), "{version}");
                assert_eq!(world.session.mac.channels, world.device.mask);
                for commands in world.commands_heard() {
                    let blocks = commands.chunk_by(|one, other| one == other).filter(|run| run[0] == LINK_ADR);
                    assert!(blocks.count() <= 1, "{commands:?}");
                }
            }
        }
    }
}

#[test]
fn a_device_that_refuses_the_mask_keeps_its_channels_and_its_adr() {
    let mut world = World::abp(Profile { region: RegionId::Us915, sub_bands: 0b10, ..Profile::default() });
    world.device.habits.refuses_masks = true;
    world.snr_db = 8.0;
    for _ in 0..6 {
        world.report(b"x");
    }
    assert_eq!(world.session.mac.channels.count(), 72);
    world.device.habits.refuses_masks = false;
    world.settle();
    assert_eq!(world.device.mask.count(), 72, "it is not asked again in this session");
    assert_eq!(world.device.dr, 3, "but it is steered");
}

/// An uplink on a channel that was off means that the device has switched all on again.
#[test]
fn a_device_heard_on_a_channel_that_was_off_is_told_again() {
    let mut world =
        World::abp(Profile { region: RegionId::Us915, sub_bands: 0b10, adr: false, ..Profile::default() });
    world.settle();
    world.device.mask = world.profile.region().default_mask();
    world.report(b"channel 0");
    world.settle();
    assert_eq!(world.device.mask, world.profile.region().sub_band_mask(0b10));
}

/// MAC-023, MAC-029: moved downlink channels are not used; an answer to what nobody asked is let be.
#[test]
fn an_answer_about_downlink_channels_changes_no_window() {
    let mut world = World::otaa(Profile { adr: false, ..Profile::default() });
    world.settle();
    for status in 0..4 {
        world.device.sticky =
            vec![UplinkCommand::DlChannelAns(mac::command::DlChannelAns::from_bytes([status]))];
        let exchange = world.report(b"x");
        let plan = exchange.step.unwrap().downlink.unwrap();
        assert_eq!(plan.rx1.unwrap().freq, world.device.last.as_ref().unwrap().freq);
        assert!(exchange.heard.is_some(), "it may stop repeating");
    }
}

fn extra() -> Vec<mac::units::Hz> {
    [867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000].map(hz).to_vec()
}
