//! The load: what devices do on a running server, until it is gone.

use std::sync::Arc;
use std::time::Duration;

use loam_tests::story;
use proto::v1::MacVersion;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::field::{Air, Node, Weather};

/// Has every device live in a task of its own.
pub(crate) fn live(tasks: &mut JoinSet<()>, nodes: &[Arc<Node>], air: &Arc<Air>, rng: &mut StdRng) {
    for node in nodes {
        let (node, air) = (Arc::clone(node), Arc::clone(air));
        let mut rng = StdRng::seed_from_u64(rng.random());
        tasks.spawn(async move {
            loop {
                turn(&node, &air, &mut rng).await;
                story::pause(Duration::from_millis(rng.random_range(5..40))).await;
            }
        });
    }
}

/// One thing a device does, and the wait for the answer.
pub(crate) async fn turn(node: &Arc<Node>, air: &Air, rng: &mut StdRng) {
    // In rough weather devices are in such a hurry that they miss what comes late.
    let (ack_patience, downlink_patience) = match air.weather() {
        Weather::Calm => (SERVICE_PATIENCE, Duration::from_millis(400)),
        Weather::Rough => (Duration::from_millis(150), Duration::from_millis(70)),
    };
    let rejoins = air.weather() == Weather::Rough && rng.random_bool(0.08);
    if node.kind.joins && (rejoins || !node.has_session()) {
        air.join(node, rng).await;
        air.hears(node, 2 * ack_patience).await;
        return;
    }
    match rng.random_range(0..100) {
        0..4 => air.play_back(node, rng).await,
        4..44 => {
            air.uplink(node, true, rng).await;
            // From 1.0.4 on a device sends again only what the network asks for.
            let repeats = node.kind.version == MacVersion::MacVersion103;
            if !air.hears(node, ack_patience).await && repeats {
                air.repeat(node, rng).await;
                air.hears(node, ack_patience).await;
            }
        }
        _ => {
            air.uplink(node, false, rng).await;
            air.hears(node, downlink_patience).await;
        }
    }
}

/// A device joins, sends, and is answered, at the first try.
pub(crate) async fn is_served(node: &Arc<Node>, air: &Air, rng: &mut StdRng) -> Result<(), String> {
    if node.kind.joins {
        air.join(node, rng).await;
        if !air.hears(node, SERVICE_PATIENCE).await {
            return Err(format!("device {:x} asked to join and was not answered", node.dev_eui));
        }
    }
    air.uplink(node, true, rng).await;
    if !air.hears(node, SERVICE_PATIENCE).await {
        return Err(format!("device {:x} sent a confirmed uplink and was not answered", node.dev_eui));
    }
    Ok(())
}

/// A machine under load, but nothing else is wrong.
const SERVICE_PATIENCE: Duration = Duration::from_secs(5);
