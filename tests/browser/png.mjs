// Makes a screenshot smaller: its 256 most frequent colours, well compressed. On a page of text and charts the others are
// between two of them, at the edges of letters.

import zlib, { deflateSync, inflateSync } from "node:zlib";

const SIGNATURE = 8;

/** The picture in fewer bytes. It must have 8 bits a channel and no interlacing, as screenshots do. */
export function smaller(png) {
  const { header, data } = parts(png);
  const [width, height, channels] = [header.readUInt32BE(0), header.readUInt32BE(4), header[9] === 6 ? 4 : 3];
  const pixels = unfiltered(inflateSync(data), width, height, channels);
  const opaque = rgb(pixels, channels);
  const palette = frequent(opaque);
  const places = new Map(palette.map((colour, place) => [colour, place]));
  const place = (colour) => {
    if (!places.has(colour)) places.set(colour, closest(palette, colour));
    return places.get(colour);
  };
  const body = Buffer.from(Uint8Array.from({ length: width * height }, (_, pixel) => place(opaque.readUIntBE(pixel * 3, 3))));
  const best = [0, 2].map((filter) => deflateSync(filtered(body, width, height, filter), { level: 9, memLevel: 9 })).sort((a, b) => a.length - b.length)[0];
  const head = Buffer.from(header);
  head.set([8, 3], 8); // a palette
  const chunks = [chunk("IHDR", head), chunk("PLTE", Buffer.concat(palette.map(channelsOf).map(Buffer.from))), chunk("IDAT", best), chunk("IEND", Buffer.alloc(0))];
  return Buffer.concat([png.subarray(0, SIGNATURE), ...chunks]);
}

const channelsOf = (colour) => [colour >> 16, (colour >> 8) & 255, colour & 255];

/** The 256 colours that most pixels have. */
function frequent(opaque) {
  const pixels = new Map();
  for (let at = 0; at < opaque.length; at += 3) {
    const colour = opaque.readUIntBE(at, 3);
    pixels.set(colour, (pixels.get(colour) ?? 0) + 1);
  }
  return [...pixels].sort((a, b) => b[1] - a[1]).slice(0, 256).map(([colour]) => colour);
}

function closest(palette, colour) {
  const wanted = channelsOf(colour);
  const distance = (other) => channelsOf(other).reduce((sum, value, index) => sum + (value - wanted[index]) ** 2, 0);
  return palette.reduce((best, other, place) => (distance(other) < distance(palette[best]) ? place : best), 0);
}

function parts(png) {
  let header;
  const data = [];
  for (let at = SIGNATURE; at < png.length; ) {
    const length = png.readUInt32BE(at);
    const type = png.toString("latin1", at + 4, at + 8);
    const body = png.subarray(at + 8, at + 8 + length);
    if (type === "IHDR") header = body;
    if (type === "IDAT") data.push(body);
    at += length + 12;
  }
  return { header, data: Buffer.concat(data) };
}

/** The rows as they are, without the differences that PNG stores. */
function unfiltered(raw, width, height, channels) {
  const row = width * channels;
  const out = Buffer.alloc(row * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (row + 1)];
    for (let x = 0; x < row; x++) {
      const at = y * row + x;
      const left = x >= channels ? out[at - channels] : 0;
      const above = y ? out[at - row] : 0;
      const corner = y && x >= channels ? out[at - row - channels] : 0;
      out[at] = raw[y * (row + 1) + 1 + x] + [0, left, above, (left + above) >> 1, filter === 4 ? nearest(left, above, corner) : 0][filter];
    }
  }
  return out;
}

function nearest(left, above, corner) {
  const [a, b, c] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

function rgb(pixels, channels) {
  if (channels === 3) return pixels;
  const out = Buffer.alloc((pixels.length / 4) * 3);
  for (let pixel = 0; pixel < pixels.length / 4; pixel++) pixels.copy(out, pixel * 3, pixel * 4, pixel * 4 + 3);
  return out;
}

/** The rows with filter 0 (none) or 2 (the difference to the row above). */
function filtered(body, row, height, filter) {
  const out = Buffer.alloc((row + 1) * height);
  for (let y = 0; y < height; y++) {
    out[y * (row + 1)] = filter;
    for (let x = 0; x < row; x++) out[y * (row + 1) + 1 + x] = body[y * row + x] - (filter === 2 && y ? body[(y - 1) * row + x] : 0);
  }
  return out;
}

function chunk(type, body) {
  const named = Buffer.concat([Buffer.from(type, "latin1"), body]);
  const out = Buffer.alloc(body.length + 12);
  out.writeUInt32BE(body.length, 0);
  named.copy(out, 4);
  out.writeUInt32BE(crc32(named), body.length + 8);
  return out;
}

const crc32 = zlib.crc32 ?? plainCrc; // older Nodes have none

function plainCrc(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
