//! Nothing by itself: `tests` has the models. A package of its own, so that neither the rest of the library nor what its tests need
//! is built for the model checker.
