//! At home with candle: variables, gradient stores and optimisers.
