//! Files, the thread, the full disk.

mod disk_full;
mod durability;
mod opening;
