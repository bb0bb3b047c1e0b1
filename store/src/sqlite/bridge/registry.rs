//! Applications, profiles, codecs and API keys, in SQL.

use prost::Message;
use proto::v1;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use crate::sqlite::{Bridge, sql};
use crate::{ApiKeyRow, ApplicationRow, CodecRow, Removal, StoreError, Written};

impl Bridge<'_> {
    pub(crate) async fn insert_application(&self, row: ApplicationRow) -> Result<Written, StoreError> {
        let key = row.id.clone();
        let query =
            sqlx::query("INSERT OR IGNORE INTO application (id, name, created_at_us) VALUES (?1, ?2, ?3)")
                .bind(row.id)
                .bind(row.name)
                .bind(row.created_at_us);
        Ok(inserted(key, self.db.execute("write an application", query).await?))
    }

    pub(crate) async fn application(&self, id: &str) -> Result<Option<ApplicationRow>, StoreError> {
        let query =
            sqlx::query("SELECT id, name, created_at_us FROM application WHERE id = ?1").bind(id.to_owned());
        Ok(self.db.fetch_optional("read an application", query).await?.map(|row| application(&row)))
    }

    pub(crate) async fn applications(
        &self,
        after_id: &str,
        limit: u32,
    ) -> Result<Vec<ApplicationRow>, StoreError> {
        let query =
            sqlx::query("SELECT id, name, created_at_us FROM application WHERE id > ?1 ORDER BY id LIMIT ?2")
                .bind(after_id.to_owned())
                .bind(limit);
        Ok(self.db.fetch_all("read the applications", query).await?.iter().map(application).collect())
    }

    pub(crate) async fn application_device_count(&self, id: &str) -> Result<u64, StoreError> {
        let query = sqlx::query("SELECT count(*) FROM device WHERE application_id = ?1").bind(id.to_owned());
        let row = self.db.fetch_optional("count devices", query).await?;
        Ok(row.map_or(0, |row| sql::uint(row.get(0))))
    }

    pub(crate) async fn delete_application(&self, id: &str) -> Result<Removal, StoreError> {
        let id = id.to_owned();
        self.db
            .write(move |connection| {
                Box::pin(remove(
                    connection,
                    id,
                    "SELECT count(*) FROM device WHERE application_id = ?1",
                    "DELETE FROM application WHERE id = ?1",
                ))
            })
            .await
    }
}

impl Bridge<'_> {
    pub(crate) async fn insert_profile(&self, profile: &v1::Profile) -> Result<Written, StoreError> {
        let query = sqlx::query("INSERT OR IGNORE INTO profile (id, body) VALUES (?1, ?2)")
            .bind(profile.id.clone())
            .bind(profile.encode_to_vec());
        Ok(inserted(profile.id.clone(), self.db.execute("write a profile", query).await?))
    }

    pub(crate) async fn update_profile(&self, profile: &v1::Profile) -> Result<bool, StoreError> {
        let (id, version, body) = (profile.id.clone(), profile.mac_version, profile.encode_to_vec());
        self.db.write(move |connection| Box::pin(replace_profile(connection, id, version, body))).await
    }

    pub(crate) async fn profile(&self, id: &str) -> Result<Option<v1::Profile>, StoreError> {
        let query = sqlx::query("SELECT body FROM profile WHERE id = ?1").bind(id.to_owned());
        self.db.fetch_optional("read a profile", query).await?.as_ref().map(profile).transpose()
    }

    pub(crate) async fn profiles(&self, after_id: &str, limit: u32) -> Result<Vec<v1::Profile>, StoreError> {
        let query = sqlx::query("SELECT body FROM profile WHERE id > ?1 ORDER BY id LIMIT ?2")
            .bind(after_id.to_owned())
            .bind(limit);
        self.db.fetch_all("read the profiles", query).await?.iter().map(profile).collect()
    }

    pub(crate) async fn delete_profile(&self, id: &str) -> Result<Removal, StoreError> {
        let id = id.to_owned();
        self.db
            .write(move |connection| {
                Box::pin(remove(
                    connection,
                    id,
                    "SELECT count(*) FROM device WHERE profile_id = ?1",
                    "DELETE FROM profile WHERE id = ?1",
                ))
            })
            .await
    }
}

impl Bridge<'_> {
    pub(crate) async fn put_codec(
        &self,
        id: &str,
        script: &str,
        updated_at_us: i64,
    ) -> Result<CodecRow, StoreError> {
        let (id, script) = (id.to_owned(), script.to_owned());
        self.db
            .write(move |connection| {
                Box::pin(async move {
                    let row = sqlx::query(
                        "INSERT INTO codec (id, script, revision, updated_at_us) VALUES (?1, ?2, 1, ?3) \
                         ON CONFLICT (id) DO UPDATE SET script = excluded.script, revision = revision + 1, \
                         updated_at_us = excluded.updated_at_us RETURNING id, script, revision, updated_at_us",
                    )
                    .bind(id)
                    .bind(script)
                    .bind(updated_at_us)
                    .fetch_one(connection)
                    .await;
                    row.map(|row| codec(&row)).map_err(StoreError::sql("write a codec"))
                })
            })
            .await
    }

    pub(crate) async fn codec(&self, id: &str) -> Result<Option<CodecRow>, StoreError> {
        let query = sqlx::query("SELECT id, script, revision, updated_at_us FROM codec WHERE id = ?1")
            .bind(id.to_owned());
        Ok(self.db.fetch_optional("read a codec", query).await?.map(|row| codec(&row)))
    }

    pub(crate) async fn codecs(&self) -> Result<Vec<CodecRow>, StoreError> {
        let query = sqlx::query("SELECT id, '', revision, updated_at_us FROM codec ORDER BY id");
        Ok(self.db.fetch_all("read the codecs", query).await?.iter().map(codec).collect())
    }

    pub(crate) async fn delete_codec(&self, id: &str) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM codec WHERE id = ?1").bind(id.to_owned());
        Ok(self.db.execute("delete a codec", query).await? > 0)
    }
}

impl Bridge<'_> {
    pub(crate) async fn put_api_key(&self, row: ApiKeyRow) -> Result<(), StoreError> {
        let query =
            sqlx::query("INSERT OR REPLACE INTO api_key (name, hash, created_at_us) VALUES (?1, ?2, ?3)")
                .bind(row.name)
                .bind(row.hash.to_vec())
                .bind(row.created_at_us);
        self.db.execute("write an API key", query).await.map(drop)
    }

    pub(crate) async fn api_keys(&self) -> Result<Vec<ApiKeyRow>, StoreError> {
        let query = sqlx::query("SELECT name, hash, created_at_us FROM api_key ORDER BY name");
        self.db.fetch_all("read the API keys", query).await?.iter().map(api_key).collect()
    }

    pub(crate) async fn api_key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKeyRow>, StoreError> {
        let query =
            sqlx::query("SELECT name, hash, created_at_us FROM api_key WHERE hash = ?1").bind(hash.to_vec());
        self.db.fetch_optional("read an API key", query).await?.as_ref().map(api_key).transpose()
    }

    pub(crate) async fn delete_api_key(&self, name: &str) -> Result<bool, StoreError> {
        let query = sqlx::query("DELETE FROM api_key WHERE name = ?1").bind(name.to_owned());
        Ok(self.db.execute("delete an API key", query).await? > 0)
    }
}

async fn remove(
    connection: &mut SqliteConnection,
    id: String,
    count: &'static str,
    delete: &'static str,
) -> Result<Removal, StoreError> {
    let used: i64 = sqlx::query_scalar(count)
        .bind(id.clone())
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::sql("count devices"))?;
    if used > 0 {
        return Ok(Removal::InUse(sql::uint(used)));
    }
    let done =
        sqlx::query(delete).bind(id).execute(connection).await.map_err(StoreError::sql("delete a row"))?;
    Ok(if done.rows_affected() > 0 { Removal::Removed } else { Removal::NotFound })
}

async fn replace_profile(
    connection: &mut SqliteConnection,
    id: String,
    version: i32,
    body: Vec<u8>,
) -> Result<bool, StoreError> {
    let failed = || StoreError::sql("write a profile");
    let before = sqlx::query("SELECT body FROM profile WHERE id = ?1")
        .bind(id.clone())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed())?;
    let Some(before) = before.as_ref().map(profile).transpose()? else {
        return Ok(false);
    };
    sqlx::query("UPDATE profile SET body = ?2 WHERE id = ?1")
        .bind(id.clone())
        .bind(body)
        .execute(&mut *connection)
        .await
        .map_err(failed())?;
    if before.mac_version != version {
        sqlx::query("UPDATE device SET flags = flags & ~4 WHERE profile_id = ?1")
            .bind(id)
            .execute(&mut *connection)
            .await
            .map_err(failed())?;
    }
    Ok(true)
}

fn inserted(key: String, rows: u64) -> Written {
    if rows > 0 { Written::Done } else { Written::Exists(key) }
}

fn application(row: &SqliteRow) -> ApplicationRow {
    ApplicationRow { id: row.get(0), name: row.get(1), created_at_us: row.get(2) }
}

fn profile(row: &SqliteRow) -> Result<v1::Profile, StoreError> {
    v1::Profile::decode(row.get::<&[u8], _>(0)).map_err(|_| StoreError::Damaged { what: "a profile" })
}

fn codec(row: &SqliteRow) -> CodecRow {
    CodecRow {
        id: row.get(0),
        script: row.get(1),
        revision: sql::uint32(row.get(2)),
        updated_at_us: row.get(3),
    }
}

fn api_key(row: &SqliteRow) -> Result<ApiKeyRow, StoreError> {
    let hash =
        <[u8; 32]>::try_from(row.get::<&[u8], _>(1)).map_err(|_| StoreError::Damaged { what: "an API key" })?;
    Ok(ApiKeyRow { name: row.get(0), hash, created_at_us: row.get(2) })
}
