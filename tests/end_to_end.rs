//! The real binary, on pipelines as small as they can be.

#[path = "end_to_end/artifacts.rs"]
mod artifacts;
#[path = "end_to_end/bad_input.rs"]
mod bad_input;
#[path = "end_to_end/house.rs"]
mod house;
#[path = "end_to_end/planning.rs"]
mod planning;
#[path = "end_to_end/results.rs"]
mod results;
#[path = "end_to_end/runs.rs"]
mod runs;
