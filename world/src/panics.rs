//! Panics of the roles, wherever the runtime would keep them to itself.
//!
//! A task that panics ends, and nobody but the one who waits for it hears of it. So the hook notes each panic on its thread, and a
//! world, which lives on one thread, asks for it at its end.

use std::cell::RefCell;
use std::sync::Once;

/// Notes panics of this thread until it is dropped; elsewhere they are told as ever.
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn begin() -> Self {
        HOOK.call_once(|| {
            let otherwise = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                let noted = FIRST.with_borrow_mut(|watched| match watched {
                    Some(first) => {
                        first.get_or_insert_with(|| panic.to_string());
                        true
                    }
                    None => false,
                });
                if !noted {
                    otherwise(panic);
                }
            }));
        });
        FIRST.set(Some(None));
        Self(())
    }

    /// The first panic since the beginning.
    pub(crate) fn first(&self) -> Option<String> {
        FIRST.with_borrow(|watched| watched.clone().flatten())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        FIRST.set(None);
    }
}

static HOOK: Once = Once::new();

thread_local! {
    /// `None`: nobody watches.
    static FIRST: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}
