// Numbers as `touchneedle.reports.numbers` writes them: as many digits as the error allows.

function formatNumber(value, error) {
  if (!Number.isFinite(value)) return value > 0 ? "\u221e" : "-\u221e";
  if (error === null || !Number.isFinite(error)) return significant(value);
  if (error <= 0) return `${significant(value)} \u00b1 0`;
  const power = exponent(Math.max(Math.abs(value), error));
  if (power >= -4 && power <= 6) return `${fixed(value, places(error))} \u00b1 ${fixed(error, places(error))}`;
  const scale = 10 ** -power;
  const digits = places(error * scale);
  return `(${fixed(value * scale, digits)} \u00b1 ${fixed(error * scale, digits)})e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
}

function significant(value) {
  if (value === 0) return "0";
  const power = exponent(value);
  if (power < -4 || power > 6) return value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  if (Number.isInteger(value) && Math.abs(value) < 1e5) return fixed(value, 0);
  return fixed(value, 2 - power);
}

function exponent(value) {
  return Math.floor(Math.log10(Math.abs(value)));
}

// Decimal places that show the leading digit of an error, or its first two where it starts with 1.
function places(error) {
  const power = exponent(error);
  const leading = Math.round((error / 10 ** power) * 10) / 10;
  return Math.min(6, -power + (leading < 2 ? 1 : 0));
}

function fixed(value, digits) {
  const scale = 10 ** Math.max(0, -digits);
  const text = (Math.round(value / scale) * scale || 0);
  const rounded = digits < 0 ? text : value;
  return rounded.toLocaleString("en-US", { minimumFractionDigits: Math.max(0, digits), maximumFractionDigits: Math.max(0, digits) }).replace(/^-(0(\.0*)?)$/, "$1");
}
