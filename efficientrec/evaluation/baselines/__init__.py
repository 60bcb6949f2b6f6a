"""What any model must beat: simple methods, each tuned on the validation users of the same split."""
