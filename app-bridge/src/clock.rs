//! The wall clock, in the one unit used here.

pub(crate) use seam::wall_us as now_us;
