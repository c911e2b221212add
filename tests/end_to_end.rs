//! The real binary, on pipelines as small as they can be.

#[cfg(test)]
#[path = "end_to_end/artifacts.rs"]
mod artifacts;
#[cfg(test)]
#[path = "end_to_end/attacks.rs"]
mod attacks;
#[cfg(test)]
#[path = "end_to_end/bad_input.rs"]
mod bad_input;
#[cfg(test)]
#[path = "end_to_end/defences.rs"]
mod defences;
#[cfg(test)]
#[path = "end_to_end/docs.rs"]
mod docs;
#[cfg(test)]
#[path = "end_to_end/exports.rs"]
mod exports;
#[cfg(test)]
#[path = "end_to_end/extending.rs"]
mod extending;
#[cfg(test)]
#[path = "end_to_end/images.rs"]
mod images;
#[cfg(test)]
#[path = "end_to_end/import.rs"]
mod import;
#[cfg(test)]
#[path = "end_to_end/init.rs"]
mod init;
#[cfg(test)]
#[path = "end_to_end/layers.rs"]
mod layers;
#[cfg(test)]
#[path = "end_to_end/limits.rs"]
mod limits;
#[cfg(test)]
#[path = "end_to_end/own_features.rs"]
mod own_features;
#[cfg(test)]
#[path = "end_to_end/planning.rs"]
mod planning;
#[cfg(test)]
#[path = "end_to_end/process.rs"]
mod process;
#[cfg(test)]
#[path = "end_to_end/project.rs"]
mod project;
#[cfg(test)]
#[path = "end_to_end/reference.rs"]
mod reference;
#[cfg(test)]
#[path = "end_to_end/report.rs"]
mod report;
#[cfg(test)]
#[path = "end_to_end/results.rs"]
mod results;
#[cfg(test)]
#[path = "end_to_end/runs.rs"]
mod runs;
#[cfg(test)]
#[path = "end_to_end/self_test.rs"]
mod self_test;
#[cfg(test)]
#[path = "end_to_end/shipped.rs"]
mod shipped;
#[cfg(test)]
#[path = "end_to_end/starter.rs"]
mod starter;
#[cfg(test)]
#[path = "end_to_end/trust.rs"]
mod trust;
#[cfg(test)]
#[path = "end_to_end/victims.rs"]
mod victims;
