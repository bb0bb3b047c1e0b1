//! What it costs when many devices have one DevAddr: the same traffic twice, with an address each and with one for all.

use anyhow::Result;
use proto::v1::Region;
use serde_json::json;

use super::devices::Devices;
use super::fleet::{EU868, Fleet};
use super::options::Options;
use super::prepare::{GATEWAYS, Registrar};
use super::report::{Figure, Report};
use super::say;
use super::server::{START_DEADLINE, Server};
use super::step::Field;

pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let directory = tempfile::tempdir_in(&options.work_dir)?;
    let server = Server::start(&options.loam, &directory.path().join("data"), START_DEADLINE)?;
    let registrar = Registrar::new(&server)?;
    registrar.register_basics(Region::Eu868)?;
    let mut distinct = Devices::distinct(0x70b3_d57e_d200_0000, options.shared_devices);
    let mut shared = Devices::on_one_addr(0x70b3_d57e_d300_0000, options.shared_devices);
    registrar.register_abp(&distinct)?;
    registrar.register_abp(&shared)?;
    let fleet = Fleet::connect(server.udp, &GATEWAYS, EU868)?;
    let field = Field { server: &server, registrar: &registrar, fleet: &fleet };

    let (rate, count) = (options.shared_rate, options.shared_devices);
    field.warm_up(&mut distinct)?;
    say(format!("{count} devices with a DevAddr each, {rate} uplinks/s"));
    let apart = field.run(&mut distinct, rate, options.seconds)?;
    field.warm_up(&mut shared)?;
    say(format!("{count} devices on one DevAddr, {rate} uplinks/s"));
    let together = field.run(&mut shared, rate, options.seconds)?;

    report.detail("shared_dev_addr", json!({ "distinct": apart.to_json(), "shared": together.to_json() }));
    let more = together.server_us_per_uplink() - apart.server_us_per_uplink();
    let floor = report.floor();
    report.add(
        Figure::new(
            "shared_dev_addr_us",
            format!("{count} devices on one DevAddr: more CPU per uplink"),
            more,
            "us",
        )
        .at_most(150.0)
        .ratio(floor.map(|floor| more / floor.us_per_uplink)),
    );
    let lost = super::float(together.lost + together.late);
    report.add(Figure::new("shared_dev_addr_lost", "of them lost or late", lost, "uplinks").at_most(0.0));
    server.stop()
}
