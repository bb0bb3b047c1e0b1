#![allow(clippy::unwrap_used)]
use proto::v1;

use crate::testing::{Place, stories};
use crate::{NetworkDeviceRow, NetworkTables};

stories! {
    what_the_network_server_was_told_is_there_after_a_restart_in_order,
    what_is_put_again_is_replaced_and_what_is_deleted_is_gone,
}

async fn devices(tables: &NetworkTables) -> Vec<NetworkDeviceRow> {
    let mut found = Vec::new();
    tables.load_devices(|row| found.push(row)).await.unwrap();
    found
}

fn device(dev_eui: u64) -> NetworkDeviceRow {
    NetworkDeviceRow { dev_eui, join_eui: 9, profile_id: "soil".into(), ..NetworkDeviceRow::default() }
}

async fn what_the_network_server_was_told_is_there_after_a_restart_in_order(place: &Place) {
    let store = place.open().await;
    let tables = store.network();
    let profile = |id: &str| v1::Profile { id: id.into(), rx_delay_s: 5, ..v1::Profile::default() };
    let gateway = |name: &str| v1::Gateway { name: name.into(), ..v1::Gateway::default() };
    for id in ["soil", "meter"] {
        tables.put_profile(&profile(id)).await.unwrap();
    }
    let odd = NetworkDeviceRow { disabled: true, allow_fcnt_reset: true, ..device(u64::MAX) };
    tables.put_devices((0..300).rev().map(device).chain([odd.clone()]).collect()).await.unwrap();
    tables.put_gateway(1 << 63, &gateway("roof")).await.unwrap();
    tables.put_gateway(7, &gateway("barn")).await.unwrap();
    store.close().await.unwrap();

    let tables = place.open().await.network();

    assert_eq!(tables.load_profiles().await.unwrap(), [profile("meter"), profile("soil")]);
    assert!(devices(&tables).await.into_iter().eq((0..300).map(device).chain([odd])));
    assert_eq!(tables.load_gateways().await.unwrap(), [(7, gateway("barn")), (1 << 63, gateway("roof"))]);
}

async fn what_is_put_again_is_replaced_and_what_is_deleted_is_gone(place: &Place) {
    let tables = place.open().await.network();
    let profile = v1::Profile { id: "soil".into(), ..v1::Profile::default() };
    let changed = v1::Profile { rx_delay_s: 1, ..profile.clone() };
    for profile in [&profile, &changed] {
        tables.put_profile(profile).await.unwrap();
    }
    let moved = NetworkDeviceRow { join_eui: 3, ..device(1) };
    tables.put_devices(vec![device(1), moved.clone()]).await.unwrap();
    for name in ["roof", "barn"] {
        tables.put_gateway(7, &v1::Gateway { name: name.into(), ..v1::Gateway::default() }).await.unwrap();
    }

    assert_eq!(tables.load_profiles().await.unwrap(), [changed]);
    assert_eq!(devices(&tables).await, [moved], "of one call the last row counts");
    assert_eq!(tables.load_gateways().await.unwrap()[0].1.name, "barn");

    for there in [true, false] {
        assert_eq!(tables.delete_profile("soil").await.unwrap(), there);
        assert_eq!(tables.delete_device(1).await.unwrap(), there);
        assert_eq!(tables.delete_gateway(7).await.unwrap(), there);
    }
    assert!(devices(&tables).await.is_empty());
}
