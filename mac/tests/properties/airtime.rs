use mac::airtime::{LoraFrame, airtime_us};
use mac::region::{CodingRate, LrFhssCodingRate, Modulation, RegionId, region};
use mac::version::RegionalRevision;
use proptest::prelude::*;

fn modulations() -> impl Strategy<Value = Modulation> {
    let lora = (5_u8..=12, prop::sample::select(vec![62_500_u32, 125_000, 203_125, 250_000, 500_000, 812_500]))
        .prop_map(|(sf, bw_hz)| Modulation::Lora { sf, bw_hz });
    let fsk = (500_u32..=500_000).prop_map(|bit_rate_bps| Modulation::Fsk { bit_rate_bps });
    let cr = prop::sample::select(vec![LrFhssCodingRate::OneThird, LrFhssCodingRate::TwoThirds]);
    let lr_fhss = (prop::sample::select(vec![137_000_u32, 336_000, 1_523_000]), cr)
        .prop_map(|(ocw_hz, cr)| Modulation::LrFhss { ocw_hz, cr });
    prop_oneof![4 => lora, 1 => fsk, 1 => lr_fhss]
}

fn coding_rates() -> impl Strategy<Value = CodingRate> {
    prop::sample::select(vec![CodingRate::Cr4_5, CodingRate::Cr4_6, CodingRate::Cr4_7, CodingRate::Cr4_8])
}

proptest! {
    /// REGION: what the vectors of other implementations check at points holds between them.
    #[test]
    fn a_longer_frame_is_never_shorter_on_air(
        modulation in modulations(), cr in coding_rates(), crc in any::<bool>(), one in 0_usize..=255, other in 0_usize..=255,
    ) {
        let us = |len| airtime_us(modulation, cr, len, crc).unwrap();
        prop_assert!(us(one.min(other)) <= us(one.max(other)));
        prop_assert!(us(one) > 0);
    }

    /// A 255 byte frame is more than a minute at SF12 on 62.5 kHz, and no frame is ever an hour.
    #[test]
    fn redundancy_a_crc_and_a_slower_chirp_take_longer(
        sf in 5_u8..=11, cr in coding_rates(), len in 0_usize..=255,
    ) {
        let us = |sf, cr, crc| airtime_us(Modulation::Lora { sf, bw_hz: 125_000 }, cr, len, crc).unwrap();
        prop_assert!(us(sf, cr, false) <= us(sf, cr, true));
        prop_assert!(us(sf, CodingRate::Cr4_5, true) <= us(sf, cr, true));
        prop_assert!(us(sf, cr, true) < us(sf + 1, cr, true));
        prop_assert!(us(sf + 1, cr, true) < 3_600_000_000);
    }

    #[test]
    fn a_frame_that_cannot_exist_has_no_airtime(
        sf in any::<u8>(), bw_hz in any::<u32>(), preamble_symbols in any::<u16>(), len in 0_usize..=70_000,
        explicit_header in any::<bool>(), crc in any::<bool>(), low_data_rate in any::<bool>(),
    ) {
        let coding_rate = CodingRate::Cr4_8;
        let frame = LoraFrame { sf, bw_hz, coding_rate, preamble_symbols, explicit_header, crc, low_data_rate };
        let can_exist = (5..=12).contains(&sf) && bw_hz > 0 && len <= 255;
        prop_assert_eq!(frame.airtime_us(len).is_some(), can_exist);
    }
}

#[test]
fn every_data_rate_of_every_region_has_an_airtime() {
    for id in RegionId::ALL {
        for number in 1..=12 {
            let revision = RegionalRevision::from_number(number).unwrap();
            for dr in (0..=15).map(mac::region::DataRate::new) {
                let rates =
                    [region(*id).modulation_up(dr, revision), region(*id).modulation_down(dr, revision)];
                for modulation in rates.into_iter().flatten() {
                    assert!(
                        airtime_us(modulation, CodingRate::Cr4_5, 255, true).is_some(),
                        "{id} {dr} {modulation:?}"
                    );
                }
            }
        }
    }
}
