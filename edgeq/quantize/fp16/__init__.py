"""FP16 graphs: conversion, overflow, simulation, verification."""
