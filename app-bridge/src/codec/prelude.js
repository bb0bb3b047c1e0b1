// Runs once in a fresh realm, before the codec: takes away what a codec must not have, and returns what the
// engine calls. Everything used after the codec has run is captured here first.
(function () {
  'use strict';

  const { defineProperty, freeze, getOwnPropertyDescriptor, getPrototypeOf, isExtensible, keys } = Object;
  const { construct, deleteProperty, ownKeys } = Reflect;
  const realm = globalThis;
  const realmPrototype = getPrototypeOf(realm);
  const DateOf = Date;
  const isFiniteNumber = Number.isFinite;
  const isArray = Array.isArray;

  for (const name of ['queueMicrotask', 'gc', 'navigator', 'performance', 'Atomics', 'SharedArrayBuffer']) {
    deleteProperty(realm, name);
  }

  // The clock stands still in a call: at the time the frame was received, for it may be decoded again later; at the present
  // one when something is encoded.
  const present = DateOf.now;
  let now = present();
  function moment() {
    const Stopped = function Date(...parts) {
      if (new.target === undefined) return new DateOf(now).toString();
      return construct(DateOf, parts.length === 0 ? [now] : parts, new.target);
    };
    const statics = { now: function () { return now; }, parse: DateOf.parse, UTC: DateOf.UTC };
    for (const name of keys(statics)) {
      defineProperty(Stopped, name, { value: statics[name], writable: true, enumerable: false, configurable: true });
    }
    Stopped.prototype = DateOf.prototype;
    defineProperty(DateOf.prototype, 'constructor', {
      value: Stopped, writable: true, enumerable: false, configurable: true,
    });
    return Stopped;
  }
  defineProperty(realm, 'Date', { value: moment(), writable: true, enumerable: false, configurable: true });

  const silent = function () {};
  defineProperty(realm, 'console', {
    value: { log: silent, info: silent, warn: silent, error: silent, debug: silent, trace: silent },
    writable: true, enumerable: false, configurable: true,
  });

  const known = new Set(ownKeys(realm));
  const knownCount = known.size;
  const isKnown = known.has.bind(known);

  // A frozen prototype also forbids `object.toString = ...` on objects that inherit from it, which codecs may
  // well do. An accessor that defines the property on the object itself keeps that working.
  function allowOverride(prototype) {
    for (const key of ownKeys(prototype)) {
      const descriptor = getOwnPropertyDescriptor(prototype, key);
      if (!('value' in descriptor) || !descriptor.configurable) continue;
      const original = descriptor.value;
      defineProperty(prototype, key, {
        get() { return original; },
        set(value) {
          if (this === prototype) return;
          defineProperty(this, key, { value, writable: true, enumerable: true, configurable: true });
        },
        enumerable: false, configurable: false,
      });
    }
  }

  // Freezes all that can be reached from the globals and from the syntax, so that nothing a call does to the
  // built-in objects is seen by the next call.
  function harden() {
    allowOverride(Object.prototype);
    allowOverride(Error.prototype);
    const functionPrototype = getPrototypeOf(silent);
    const seen = new Set([realm]);
    const queue = [
      function* () {}, async function () {}, async function* () {}, () => {}, /x/,
      [][Symbol.iterator](), ''[Symbol.iterator](), new Map().entries(), new Set().entries(),
      'x'.matchAll(/x/g), (function* () {})(), (async function* () {})(), (function () { return arguments; })(),
    ];
    for (const key of known) {
      const descriptor = getOwnPropertyDescriptor(realm, key);
      if (descriptor === undefined) continue;
      if ('value' in descriptor) queue.push(descriptor.value);
      if (descriptor.configurable) {
        defineProperty(realm, key, 'value' in descriptor
          ? { writable: false, configurable: false }
          : { configurable: false });
      }
    }
    while (queue.length > 0) {
      const value = queue.pop();
      if ((typeof value !== 'object' && typeof value !== 'function') || value === null || seen.has(value)) continue;
      seen.add(value);
      freeze(value);
      const names = ownKeys(value);
      // Almost all are plain built-in functions with a length and a name; looking into those takes most time.
      if (typeof value === 'function' && names.length === 2 && getPrototypeOf(value) === functionPrototype) continue;
      queue.push(getPrototypeOf(value));
      for (const key of names) {
        const descriptor = getOwnPropertyDescriptor(value, key);
        if ('value' in descriptor) queue.push(descriptor.value);
        else queue.push(descriptor.get, descriptor.set);
      }
    }
  }

  // Removes the globals a call left behind (`i = 0` without `var` makes one) when their number says that there
  // are any. False: the realm cannot be brought back to where it was.
  function sweep(count) {
    if (count !== knownCount) {
      const names = ownKeys(realm);
      for (let i = 0; i < names.length; i++) {
        if (!isKnown(names[i]) && !deleteProperty(realm, names[i])) return false;
      }
    }
    return isExtensible(realm) && getPrototypeOf(realm) === realmPrototype;
  }

  // JSON has no NaN: JSON.stringify writes null and says nothing. Names the first such value.
  function unwritable(value, path, depth) {
    if (typeof value === 'number') return isFiniteNumber(value) ? '' : path + ' is ' + value;
    if (typeof value !== 'object' || value === null || depth > 64) return '';
    if (value instanceof DateOf) return isFiniteNumber(+value) ? '' : path + ' is an invalid date';
    const names = keys(value);
    for (let i = 0; i < names.length; i++) {
      const name = names[i];
      const found = unwritable(value[name], isArray(value) ? path + '[' + name + ']' : path + '.' + name, depth + 1);
      if (found !== '') return found;
    }
    return '';
  }

  // `factory` holds the codec's text as a function body. It runs anew in each call, so that a codec's own
  // variables never carry anything from one device to another.
  return function bind(factory) {
    const functions = factory();
    freeze(factory);
    freeze(factory.prototype);
    if (!sweep(-1)) throw new Error('the codec changes the global object in a way that cannot be undone');
    harden();
    return [
      functions.map((f) => typeof f === 'function'),
      function decode(downlink, bytes, fPort, timeMs) {
        now = timeMs;
        const [decodeUplink, , decodeDownlink, Decoder, Decode] = factory();
        const decoder = downlink ? decodeDownlink : decodeUplink;
        if (typeof decoder === 'function') {
          return decoder({ bytes, fPort, recvTime: new DateOf(timeMs), variables: {} });
        }
        return { data: typeof Decoder === 'function' ? Decoder(bytes, fPort) : Decode(fPort, bytes) };
      },
      function encode(data) {
        now = present();
        const encodeDownlink = factory()[1];
        return encodeDownlink({ data, variables: {} });
      },
      sweep,
      unwritable,
    ];
  };
})()
