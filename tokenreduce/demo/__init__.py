"""The toy video world that the embedded demo model knows, and its clips and questions."""
