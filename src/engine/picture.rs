//! Between layers of pixels and the tensors that networks read and make.

pub mod pixels;
pub mod rim;
pub mod selection;
pub mod untouched;
