// Ultrasonic tank gauge: distance from the lid to the surface.
// Bytes: 0 status (bit 0: no echo), 1-2 distance in mm, 3 temperature in degrees C (signed), 4 battery in 20 mV.

var TANK_HEIGHT_MM = 2400;

function decodeUplink(input) {
  var b = input.bytes;
  if (input.fPort !== 10 || b.length !== 5) {
    return { errors: ["a tank report has 5 bytes on port 10"] };
  }
  var out = {
    temperature_c: b[3] > 127 ? b[3] - 256 : b[3],
    battery_v: Math.round(b[4] * 20) / 1000
  };
  if (b[0] & 1) {
    return { data: out, warnings: ["no echo: foam or a tilted sensor"] };
  }
  out.distance_mm = (b[1] << 8) | b[2];
  out.level_pct = Math.max(0, Math.min(100, Math.round((1 - out.distance_mm / TANK_HEIGHT_MM) * 1000) / 10));
  return { data: out };
}
