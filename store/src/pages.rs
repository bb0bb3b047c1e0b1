//! Reading a table page by page.

use crate::StoreError;

/// Hands over every row of a table in the order of its key. The next page is read by a task of its own while this one is taken in: a start
/// with many devices uses two cores.
///
/// `key_after` is the key behind a row; `None`: there is none that could follow.
pub(crate) async fn each_row<K, T, F>(
    first: K,
    read: impl Fn(K) -> F,
    key_after: impl Fn(&T) -> Option<K>,
    mut each: impl FnMut(T),
) -> Result<(), StoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<Vec<T>, StoreError>> + Send + 'static,
{
    let mut reading = Some(tokio::spawn(read(first)));
    while let Some(page) = reading.take() {
        // Only a runtime that is ending drops it.
        let page = page.await.map_err(|_| StoreError::Closed)??;
        reading = page.last().and_then(&key_after).map(|key| tokio::spawn(read(key)));
        page.into_iter().for_each(&mut each);
    }
    Ok(())
}
