"""What is contested: facts, fact sets, generators and readers of data sets. No torch here."""
