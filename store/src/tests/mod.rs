//! Stories of the whole store: those every engine tells alike, and those of each engine alone.

mod memory;
mod shared;
mod sqlite;
