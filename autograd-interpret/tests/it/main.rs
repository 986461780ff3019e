//! Attribution held against figures from outside.

mod captum;
mod certificates;
mod data;
mod fixtures;
mod inputs;
mod layers;
mod misuse;
mod models;
mod quality;
mod sampled;
mod targets;
