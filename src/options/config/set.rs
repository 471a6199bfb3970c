//! Setting many options.

/// Sets the options whose keys have a value.
macro_rules! set {
    ($builder:ident, $($value:expr => $option:ident),+ $(,)?) => {
        $(if let Some(value) = $value {
            $builder = $builder.$option(value);
        })+
    };
}

pub(super) use set;
