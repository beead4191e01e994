// A byte-level BPE: text to the tokens of a network, and back.

// How a byte-level BPE such as GPT-2's cuts a text before it merges.
const CUTS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
// The character that stands for each byte: printable ones are themselves.
const BYTES = (() => {
  const printable = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let others = 0;
  return counted(256).map((byte) => String.fromCharCode(printable(byte) ? byte : 256 + others++));
})();

// The tokenizer of a network that reads text: every byte is a token, and pairs of tokens are merged.
class Tokenizer {
  constructor({ pieces, merges, start }) {
    const byteOf = new Map(BYTES.map((character, byte) => [character, byte]));
    this.start = start;
    this.bytes = pieces.map((piece) => [...piece].map((character) => byteOf.get(character)));
    this.tokens = BYTES.map((character) => pieces.indexOf(character));
    this.merges = new Map(merges.map(([left, right, merged], rank) => [`${left} ${right}`, { rank, merged }]));
  }
  encode(text) {
    const encoder = new TextEncoder();
    const words = text.match(CUTS) ?? [];
    return [...this.start, ...words.flatMap((word) => this.merged([...encoder.encode(word)].map((byte) => this.tokens[byte])))]; // prettier-ignore
  }
  // Merges the pair that comes first among the merges, as long as there is one.
  merged(tokens) {
    for (;;) {
      let best = null;
      for (let at = 0; at + 1 < tokens.length; at++) {
        const merge = this.merges.get(`${tokens[at]} ${tokens[at + 1]}`);
        if (merge && !(merge.rank >= best?.rank)) best = { ...merge, at };
      }
      if (!best) return tokens;
      tokens.splice(best.at, 2, best.merged);
    }
  }
  decode(tokens) {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(tokens.flatMap((token) => this.bytes[token]))); // prettier-ignore
  }
}
