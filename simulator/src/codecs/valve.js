// Irrigation valve. Uplink: 0 state (0 shut, 1 open), 1-2 flow in 0.1 l/min, 3-4 litres since it opened.
// Downlink on port 5: 01 minutes(2) opens, 00 shuts.

function decodeUplink(input) {
  var b = input.bytes;
  if (b.length !== 5) {
    return { errors: ["a valve report has 5 bytes"] };
  }
  return {
    data: {
      open: b[0] === 1,
      flow_l_min: ((b[1] << 8) | b[2]) / 10,
      litres: (b[3] << 8) | b[4]
    }
  };
}

function encodeDownlink(input) {
  var data = input.data;
  if (data.open === false) {
    return { bytes: [0], fPort: 5 };
  }
  var minutes = data.minutes;
  if (data.open !== true || typeof minutes !== "number" || minutes < 1 || minutes > 720) {
    return { errors: ["give {open: false} or {open: true, minutes: 1..720}"] };
  }
  return { bytes: [1, (minutes >> 8) & 0xff, minutes & 0xff], fPort: 5 };
}

function decodeDownlink(input) {
  if (input.bytes[0] === 0) {
    return { data: { open: false } };
  }
  return { data: { open: true, minutes: (input.bytes[1] << 8) | input.bytes[2] } };
}
