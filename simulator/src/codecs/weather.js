// Weather station: a list of (channel, type, value) entries, as many vendors send them.
// Types: 0x03 temperature 0.1 degrees C LE signed, 0x04 humidity 0.5 %, 0x05 wind 0.1 m/s LE, 0x06 direction degrees LE,
// 0x07 rain 0.1 mm LE, 0x73 pressure 0.1 hPa LE.

var TYPES = {
  0x03: { name: "temperature_c", size: 2, scale: 0.1, signed: true },
  0x04: { name: "humidity_pct", size: 1, scale: 0.5 },
  0x05: { name: "wind_m_s", size: 2, scale: 0.1 },
  0x06: { name: "wind_direction_deg", size: 2, scale: 1 },
  0x07: { name: "rain_mm", size: 2, scale: 0.1 },
  0x73: { name: "pressure_hpa", size: 2, scale: 0.1 }
};

function read(bytes, at, type) {
  var value = 0;
  for (var i = type.size - 1; i >= 0; i--) {
    value = value * 256 + bytes[at + i];
  }
  if (type.signed && value >= Math.pow(2, 8 * type.size - 1)) {
    value -= Math.pow(2, 8 * type.size);
  }
  return Math.round(value * type.scale * 100) / 100;
}

function decodeUplink(input) {
  var data = {};
  var at = 0;
  while (at + 1 < input.bytes.length) {
    var type = TYPES[input.bytes[at + 1]];
    if (!type || at + 2 + type.size > input.bytes.length) {
      return { errors: ["unknown or cut entry at byte " + at] };
    }
    data[type.name] = read(input.bytes, at + 2, type);
    at += 2 + type.size;
  }
  return { data: data };
}
