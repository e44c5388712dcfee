    asked tsquery;
    viewers tsquery;
    phrased boolean;
    narrowed tsquery;
