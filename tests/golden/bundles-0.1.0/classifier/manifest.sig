{
 "version": "edgeq.signature/1",
 "key": "8e897f321066109e",
 "signature": "joWNpckwU/jnAbT8SsM7O13DmbZjWuu0YUuE3kWr31AA+yrSYAWCRJ7dj+o7O5hC6mx8WkF90cmm+xQ9bfXXCQ=="
}