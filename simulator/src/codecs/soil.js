// Soil probe: volumetric water content, temperature, conductivity.
// Bytes: 0-1 battery mV, 2-3 moisture in 0.01 %, 4-5 temperature in 0.01 degrees C (signed), 6-7 conductivity in uS/cm.

function u16(bytes, at) {
  return (bytes[at] << 8) | bytes[at + 1];
}

function i16(bytes, at) {
  var value = u16(bytes, at);
  return value > 0x7fff ? value - 0x10000 : value;
}

function decodeUplink(input) {
  if (input.fPort !== 2) {
    return { errors: ["unknown port " + input.fPort] };
  }
  if (input.bytes.length !== 8) {
    return { errors: ["a soil report has 8 bytes, this one " + input.bytes.length] };
  }
  var data = {
    battery_v: u16(input.bytes, 0) / 1000,
    moisture_pct: i16(input.bytes, 2) / 100,
    temperature_c: i16(input.bytes, 4) / 100,
    conductivity_us_cm: u16(input.bytes, 6)
  };
  var warnings = [];
  if (data.battery_v < 3.1) {
    warnings.push("battery low");
  }
  return { data: data, warnings: warnings };
}
