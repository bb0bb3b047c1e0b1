//! What the network server was told, in SQL.

use futures_util::TryStreamExt;
use prost::Message;
use proto::v1;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::{Network, sql};
use crate::pages::each_row;
use crate::{NetworkDeviceRow, StoreError};

impl Network<'_> {
    pub(crate) async fn put_profile(&self, profile: &v1::Profile) -> Result<(), StoreError> {
        let query = sqlx::query("INSERT OR REPLACE INTO network_profile (id, body) VALUES (?1, ?2)")
            .bind(profile.id.clone())
            .bind(profile.encode_to_vec());
        self.db.execute("write a profile", query).await.map(drop)
    }

    pub(crate) async fn delete_profile(&self, id: &str) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM network_profile WHERE id = ?1").bind(id.to_owned());
        Ok(self.db.execute("delete a profile", query).await? > 0)
    }

    pub(crate) async fn load_profiles(&self) -> Result<Vec<v1::Profile>, StoreError> {
        let query = sqlx::query("SELECT body FROM network_profile ORDER BY id");
        let rows = self.db.fetch_all("read the profiles", query).await?;
        rows.iter()
            .map(|row| v1::Profile::decode(row.get::<&[u8], _>(0)))
            .collect::<Result<_, _>>()
            .map_err(|_| StoreError::Damaged { what: "a profile" })
    }

    pub(crate) async fn put_devices(&self, devices: Vec<NetworkDeviceRow>) -> Result<(), StoreError> {
        self.db.write(move |connection| Box::pin(put_devices(connection, devices))).await
    }

    pub(crate) async fn delete_device(&self, dev_eui: u64) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM network_device WHERE dev_eui = ?1").bind(sql::key(dev_eui));
        Ok(self.db.execute("delete a device", query).await? > 0)
    }

    pub(crate) async fn load_devices(&self, each: impl FnMut(NetworkDeviceRow)) -> Result<(), StoreError> {
        let read = |dev_eui| {
            let db = self.db.clone();
            async move { db.read(move |connection| Box::pin(devices_from(connection, dev_eui))).await }
        };
        each_row(0, read, |last: &NetworkDeviceRow| last.dev_eui.checked_add(1), each).await
    }

    pub(crate) async fn put_gateway(&self, gateway_eui: u64, gateway: &v1::Gateway) -> Result<(), StoreError> {
        let query = sqlx::query("INSERT OR REPLACE INTO network_gateway (gateway_eui, body) VALUES (?1, ?2)")
            .bind(sql::key(gateway_eui))
            .bind(gateway.encode_to_vec());
        self.db.execute("write a gateway", query).await.map(drop)
    }

    pub(crate) async fn delete_gateway(&self, gateway_eui: u64) -> Result<bool, StoreError> {
        let query =
            sqlx::query("DELETE FROM network_gateway WHERE gateway_eui = ?1").bind(sql::key(gateway_eui));
        Ok(self.db.execute("delete a gateway", query).await? > 0)
    }

    pub(crate) async fn load_gateways(&self) -> Result<Vec<(u64, v1::Gateway)>, StoreError> {
        let query = sqlx::query("SELECT gateway_eui, body FROM network_gateway ORDER BY gateway_eui");
        let rows = self.db.fetch_all("read the gateways", query).await?;
        rows.iter()
            .map(|row| Ok((sql::id(row.get(0)), v1::Gateway::decode(row.get::<&[u8], _>(1))?)))
            .collect::<Result<_, prost::DecodeError>>()
            .map_err(|_| StoreError::Damaged { what: "a gateway" })
    }
}

async fn put_devices(
    connection: &mut SqliteConnection,
    devices: Vec<NetworkDeviceRow>,
) -> Result<(), StoreError> {
    let mut devices = devices.into_iter();
    for size in [128, 1] {
        while devices.len() >= size {
            let mut query = QueryBuilder::<Sqlite>::new(
                "INSERT OR REPLACE INTO network_device (dev_eui, join_eui, profile_id, flags) ",
            );
            query.push_values(devices.by_ref().take(size), |mut values, device| {
                let flags = i64::from(device.disabled) | i64::from(device.allow_fcnt_reset) << 1;
                values
                    .push_bind(sql::key(device.dev_eui))
                    .push_bind(sql::key(device.join_eui))
                    .push_bind(device.profile_id)
                    .push_bind(flags);
            });
            query.build().execute(&mut *connection).await.map_err(StoreError::sql("write devices"))?;
        }
    }
    Ok(())
}

async fn devices_from(
    connection: &mut SqliteConnection,
    dev_eui: u64,
) -> Result<Vec<NetworkDeviceRow>, StoreError> {
    let failed = || StoreError::sql("read the devices");
    let mut page = Vec::with_capacity(PAGE_ROWS);
    let mut rows = sqlx::query(
        "SELECT dev_eui, join_eui, profile_id, flags FROM network_device WHERE dev_eui >= ?1 ORDER BY dev_eui LIMIT ?2",
    )
    .bind(sql::key(dev_eui))
    .bind(sql::int(PAGE_ROWS as u64))
    .fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(failed())? {
        let flags: i64 = row.get(3);
        page.push(NetworkDeviceRow {
            dev_eui: sql::id(row.get(0)),
            join_eui: sql::id(row.get(1)),
            profile_id: row.get(2),
            disabled: flags & 1 != 0,
            allow_fcnt_reset: flags & 2 != 0,
        });
    }
    Ok(page)
}

const PAGE_ROWS: usize = 4096;
